// GEMM by CBLAS, for dtypes and CPUs that have no microkernel of ours (the library chooses its
// kernels by CPU model, and takes ones of half the width on models it does not know). Its bits
// change with how a GEMM is cut, and small tiles cost up to a third. So C is cut into a few large
// panels that depend on its shape alone: the longer of m and n in even parts of whole 16, K whole.
// Each panel is one single-threaded call of the library, so results do not depend on the number of
// threads. Operands of bf16 and f16 are widened to f32 first: the one that all panels share once,
// the other by panel.
#include <olm/kernels/cpu/gemm/cblas.h>

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <mutex>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>

namespace olm::kernels::gemm {
namespace {

/// The calling thread's OpenMP width is 1 while this lives: the library's threads stay out. A
/// library of another threading variant is entered by one thread at a time.
class OneThread {
 public:
  OneThread() : previous_(omp_get_max_threads()) {
    if (previous_ != 1) omp_set_num_threads(1);
    static const bool concurrent = openblas_get_parallel() == OPENBLAS_OPENMP;
    if (!concurrent) lock_ = std::unique_lock(mutex());
  }
  ~OneThread() {
    if (previous_ != 1) omp_set_num_threads(previous_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  int previous_;
  std::unique_lock<std::mutex> lock_;
};

// ---- calls of the library -----------------------------------------------------------------------
CBLAS_TRANSPOSE flag(bool t) { return t ? CblasTrans : CblasNoTrans; }

void library_gemm(const Problem& p, float* c, int64_t ldc, float beta) {
  cblas_sgemm(CblasRowMajor, flag(p.a.transposed), flag(p.b.transposed), int(p.m), int(p.n),
              int(p.k), float(p.alpha), in<float>(p.a.data), int(p.a.ld), in<float>(p.b.data),
              int(p.b.ld), beta, c, int(ldc));
}
void library_gemm(const Problem& p, double* c, int64_t ldc, double beta) {
  cblas_dgemm(CblasRowMajor, flag(p.a.transposed), flag(p.b.transposed), int(p.m), int(p.n),
              int(p.k), p.alpha, in<double>(p.a.data), int(p.a.ld), in<double>(p.b.data),
              int(p.b.ld), beta, c, int(ldc));
}
void library_gemv(const Matrix& w, int64_t rows, int64_t cols, double alpha, const float* x,
                  int64_t incx, float* y, int64_t incy) {
  cblas_sgemv(CblasRowMajor, flag(w.transposed), int(w.transposed ? cols : rows),
              int(w.transposed ? rows : cols), float(alpha), in<float>(w.data), int(w.ld), x,
              int(incx), 1, y, int(incy));
}
void library_gemv(const Matrix& w, int64_t rows, int64_t cols, double alpha, const double* x,
                  int64_t incx, double* y, int64_t incy) {
  cblas_dgemv(CblasRowMajor, flag(w.transposed), int(w.transposed ? cols : rows),
              int(w.transposed ? rows : cols), alpha, in<double>(w.data), int(w.ld), x, int(incx),
              1, y, int(incy));
}

template <class A>
void fill_zero(A* c, int64_t rows, int64_t cols, int64_t ld) {
  for (int64_t r = 0; r < rows; ++r) std::fill_n(c + r * ld, cols, A(0));
}

/// c = alpha · op(a) · op(b), added to c where `add`; operands are of type A.
template <class A>
void multiply(const Problem& p, A* c, int64_t ldc, bool add) {
  const bool vector = p.m == 1 || p.n == 1;
  if ((vector || p.k == 0) && !add) fill_zero(c, p.m, p.n, ldc);
  if (p.k == 0) return;
  const OneThread guard;
  if (p.m == 1) {
    Matrix w = p.b;
    w.transposed = !w.transposed;
    library_gemv(w, p.n, p.k, p.alpha, in<A>(p.a.data), p.a.transposed ? p.a.ld : 1, c, 1);
  } else if (p.n == 1) {
    library_gemv(p.a, p.m, p.k, p.alpha, in<A>(p.b.data), p.b.transposed ? 1 : p.b.ld, c, ldc);
  } else {
    library_gemm(p, c, ldc, add ? A(1) : A(0));
  }
}

// ---- one panel ----------------------------------------------------------------------------------
bool must_widen(const Matrix& m) { return m.dtype != f32 && m.dtype != f64; }

/// `m` as a matrix the library takes, widened into `memory` where it is not one. op(m) is
/// [rows, cols].
Matrix widened(const Matrix& m, int64_t rows, int64_t cols, float* memory) {
  if (!must_widen(m)) return m;
  if (m.transposed) std::swap(rows, cols);
  widen(m.dtype, m.data, m.ld, memory, rows, cols);
  return {.data = memory, .dtype = f32, .ld = cols, .transposed = m.transposed};
}

/// True where the library's sums may lie in C: it has their dtype, nothing else is read from it
/// afterwards, and what it holds is added to the sums, not to act(sums) or past the preactivation.
template <class A>
bool can_sum_in_c(const Epilogue& e) {
  const bool adds_before = e.activation == Activation::none && e.preactivation == nullptr;
  return e.dtype == dtype_of<A> && e.residual != e.c && (!e.accumulate || adds_before);
}

template <class A>
void run_panel(Problem p, const Stream& stream) {
  if (p.m == 0 || p.n == 0) return;
  const int64_t a_size = must_widen(p.a) ? p.m * p.k : 0, b_size = must_widen(p.b) ? p.k * p.n : 0;
  const bool in_c = can_sum_in_c<A>(p.epilogue);
  const Scratch<A> memory = stream.scratch<A>(size_t(a_size + b_size + (in_c ? 0 : p.m * p.n)));
  if constexpr (sizeof(A) == sizeof(float)) {
    p.a = widened(p.a, p.m, p.k, memory.get());
    p.b = widened(p.b, p.k, p.n, memory.get() + a_size);
  }
  A* sums = in_c ? out<A>(p.epilogue.c) : memory.get() + a_size + b_size;
  const int64_t ld = in_c ? p.epilogue.ldc : p.n;
  multiply(p, sums, ld, in_c && p.epilogue.accumulate);
  if (in_c && p.epilogue.only_stores()) return;
  if (in_c) p.epilogue.accumulate = false;
  apply(p.epilogue, {.data = sums, .ld = ld, .rows = p.m, .cols = p.n});
}

// ---- cutting ------------------------------------------------------------------------------------
struct Cut {
  bool rows = true;  // rows of C are cut, else columns
  int64_t size = 1;  // of a panel, along the cut
  int64_t panels = 1;
};

// Few panels, since the library packs the other operand anew in each: 2 up to 1024 rows or columns,
// 4 from there on, and from 5120 on one for each 1024. A GEMM of 2 MFLOP, tens of microseconds,
// stays whole.
constexpr double kMinFlop = 2e6;
constexpr int64_t kMinCut = 64, kMaxPanel = 1024;
// A matrix times a vector is read once, and packed by nobody: panels of 10 µs or so.
constexpr double kMinFlopOfVector = 5e5, kPanelFlopOfVector = 2.5e5;
constexpr int64_t kMinPanelOfVector = 32;

Cut cut_of(int64_t m, int64_t n, int64_t k) {
  Cut cut{.rows = m >= n};
  const int64_t longer = std::max<int64_t>(std::max(m, n), 1);
  const double flop = 2.0 * double(m) * double(n) * double(std::max<int64_t>(k, 1));
  int64_t count = 1;
  if (flop >= kMinFlop && longer >= kMinCut)
    count = longer <= kMaxPanel ? 2 : std::max<int64_t>(4, longer / kMaxPanel);
  if (std::min(m, n) == 1 && longer >= kMinCut && flop >= kMinFlopOfVector)
    count = std::clamp<int64_t>(int64_t(flop / kPanelFlopOfVector), 2, longer / kMinPanelOfVector);
  cut.size = round_up(ceil_div(longer, count), 16);
  cut.panels = ceil_div(longer, cut.size);
  return cut;
}

Problem panel_of(const Problem& p, const Cut& cut, int64_t index) {
  Problem part = p;
  const int64_t begin = index * cut.size;
  if (cut.rows) {
    part.m = std::min(cut.size, p.m - begin);
    part.a = p.a.at(begin, 0);
  } else {
    part.n = std::min(cut.size, p.n - begin);
    part.b = p.b.at(0, begin);
  }
  part.epilogue = cut.rows ? p.epilogue.at(begin, 0) : p.epilogue.at(0, begin);
  return part;
}

/// Widens what all panels share, in parallel, then runs the panels.
template <class A>
void run_cut(Problem p, const Cut& cut, const Stream& stream) {
  Matrix& shared = cut.rows ? p.b : p.a;
  int64_t rows = cut.rows ? p.k : p.m, cols = cut.rows ? p.n : p.k;
  if (shared.transposed) std::swap(rows, cols);
  const bool widens = cut.panels > 1 && must_widen(shared);
  const Scratch<float> memory = stream.scratch<float>(size_t(widens ? rows * cols : 0));
  if (widens) {
    const Matrix from = shared;
    parallel_for(rows, rows_per_range(cols, 65536), [&](int64_t begin, int64_t end) {
      widen(from.dtype, advance(from.data, begin * from.ld, from.dtype), from.ld,
            memory.get() + begin * cols, end - begin, cols);
    });
    shared = {.data = memory.get(), .dtype = f32, .ld = cols, .transposed = from.transposed};
  }
  parallel_for(cut.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_panel<A>(panel_of(p, cut, i), stream);
  });
}

}  // namespace

void run_cblas_whole(const Problem& problem, const Stream& stream) {
  if (problem.epilogue.dtype == f64) return run_panel<double>(problem, stream);
  run_panel<float>(problem, stream);
}

void run_cblas(const Problem& problem, const Stream& stream) {
  const Cut cut = cut_of(problem.m, problem.n, problem.k);
  if (problem.epilogue.dtype == f64) return run_cut<double>(problem, cut, stream);
  run_cut<float>(problem, cut, stream);
}

}  // namespace olm::kernels::gemm
