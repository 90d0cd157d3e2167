// GEMM. Where the CPU has 512-bit vectors or tiles, f32 and bf16 products run on our own kernels
// (gemm_tiles.h): the matrix library chooses its kernels by CPU model, and takes ones of half the
// width on models it does not know. Products of a few rows read the other operand as it is stored
// (gemm_thin.cpp). For all others CBLAS: a result is cut into a few large panels that depend on its
// shape alone: the longer of m and n is divided into even, 16-aligned parts, the depth stays whole.
// Each panel is one single-threaded library call, so results do not depend on the number of
// threads. bf16 and f16 operands are widened to f32 first: the operand that all panels share once,
// the other by panel.
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <mutex>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/gemm_internal.h>
#include <olm/kernels/cpu/gemm_tiles.h>

namespace olm::kernels {
namespace {

using gemm_internal::advance;
using gemm_internal::Matrix;
using gemm_internal::Product;

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

// ---- library calls ------------------------------------------------------------------------------
CBLAS_TRANSPOSE flag(bool t) { return t ? CblasTrans : CblasNoTrans; }

void library_gemm(const Product& p, float* c, int64_t ldc, float beta) {
  cblas_sgemm(CblasRowMajor, flag(p.a.transposed), flag(p.b.transposed), int(p.m), int(p.n),
              int(p.k), float(p.alpha), in<float>(p.a.data), int(p.a.ld), in<float>(p.b.data),
              int(p.b.ld), beta, c, int(ldc));
}
void library_gemm(const Product& p, double* c, int64_t ldc, double beta) {
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
void multiply(const Product& p, A* c, int64_t ldc, bool add) {
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
/// `m` as a matrix of type A, widened into `memory` where it is not one. op(m) is [rows, cols].
Matrix widened(const Matrix& m, int64_t rows, int64_t cols, float* memory) {
  if (m.dtype == f32 || m.dtype == f64) return m;
  if (m.transposed) std::swap(rows, cols);
  gemm_internal::widen(m.dtype, m.data, m.ld, memory, rows, cols);
  return {.data = memory, .dtype = f32, .ld = cols, .transposed = m.transposed};
}
int64_t widened_size(const Matrix& m, int64_t rows, int64_t cols) {
  return m.dtype == f32 || m.dtype == f64 ? 0 : rows * cols;
}

template <class A>
void run_panel(Product p, const Stream& stream) {
  if (p.m == 0 || p.n == 0) return;
  const int64_t a_size = widened_size(p.a, p.m, p.k), b_size = widened_size(p.b, p.k, p.n);
  const bool in_place = p.out.dtype == dtype_of<A> && p.out.residual != p.out.c &&
                        !(p.out.accumulate &&
                          (p.out.activation != Activation::none || p.out.preactivation != nullptr));
  const bool finish = !in_place || p.out.bias || p.out.preactivation || p.out.residual ||
                      p.out.activation != Activation::none;
  const Scratch<A> memory = stream.scratch<A>(size_t(a_size + b_size + (in_place ? 0 : p.m * p.n)));
  if constexpr (sizeof(A) == sizeof(float)) {
    p.a = widened(p.a, p.m, p.k, memory.get());
    p.b = widened(p.b, p.k, p.n, memory.get() + a_size);
  }
  A* c = in_place ? out<A>(p.out.c) : memory.get() + a_size + b_size;
  const int64_t ldc = in_place ? p.out.ldc : p.n;
  multiply(p, c, ldc, in_place && p.out.accumulate);
  if (!finish) return;
  p.out.source = c;
  p.out.source_ld = ldc;
  p.out.rows = p.m;
  p.out.cols = p.n;
  if (in_place) p.out.accumulate = false;
  gemm_internal::finish(p.out);
}

// ---- cutting ------------------------------------------------------------------------------------
struct Cut {
  bool rows = true;  // rows of C are cut, else columns
  int64_t size = 1;  // of a panel, along the cut
  int64_t panels = 1;
};

Cut cut_of(int64_t m, int64_t n, int64_t k) {
  Cut cut{.rows = m >= n};
  const int64_t longer = std::max<int64_t>(std::max(m, n), 1);
  const double work = 2.0 * double(m) * double(n) * double(std::max<int64_t>(k, 1));
  int64_t count = 1;
  if (work >= 2e6 && longer >= 64)
    count = longer <= 1024 ? 2 : longer <= 2048 ? 4 : std::max<int64_t>(4, longer / 1024);
  if (std::min(m, n) == 1 && longer >= 64 && work >= 5e5)
    count = std::clamp<int64_t>(int64_t(work / 2.5e5), 2, longer / 32);
  cut.size = ((longer + count - 1) / count + 15) / 16 * 16;
  cut.panels = (longer + cut.size - 1) / cut.size;
  return cut;
}

Product panel_of(const Product& p, const Cut& cut, int64_t index) {
  Product part = p;
  const int64_t begin = index * cut.size;
  if (cut.rows) {
    part.m = std::min(cut.size, p.m - begin);
    part.a = p.a.at(begin, 0);
  } else {
    part.n = std::min(cut.size, p.n - begin);
    part.b = p.b.at(0, begin);
  }
  part.out = cut.rows ? p.out.at(begin, 0) : p.out.at(0, begin);
  return part;
}

/// Widens what all panels share, in parallel, then runs the panels.
template <class A>
void run_cut(Product p, const Cut& cut, const Stream& stream) {
  Matrix& shared = cut.rows ? p.b : p.a;
  const int64_t rows = cut.rows ? p.k : p.m, cols = cut.rows ? p.n : p.k;
  const int64_t size = cut.panels > 1 ? widened_size(shared, rows, cols) : 0;
  const Scratch<float> memory = stream.scratch<float>(size_t(size));
  if (size > 0) {
    const int64_t stored_rows = shared.transposed ? cols : rows;
    const int64_t stored_cols = shared.transposed ? rows : cols;
    const Matrix from = shared;
    parallel_for(stored_rows, rows_per_range(stored_cols, 65536), [&](int64_t begin, int64_t end) {
      gemm_internal::widen(from.dtype, advance(from.data, begin * from.ld, from.dtype), from.ld,
                           memory.get() + begin * stored_cols, end - begin, stored_cols);
    });
    shared.data = memory.get();
    shared.dtype = f32;
    shared.ld = stored_cols;
  }
  parallel_for(cut.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_panel<A>(panel_of(p, cut, i), stream);
  });
}

// ---- the call -----------------------------------------------------------------------------------
template <class Pointer>
Pointer member_pointer(Pointer base, Pointer const* list, int64_t i, int64_t stride, DType t) {
  if (list != nullptr) return list[i];
  return base == nullptr ? base : Pointer(advance(base, i * stride, t));
}

/// Rows and depth as stored: of all groups together, where offsets cut them.
struct Stored {
  explicit Stored(const Gemm& g)
      : m(g.m_offsets ? g.m_offsets[g.batch] : g.m), k(g.k_offsets ? g.k_offsets[g.batch] : g.k) {}
  int64_t m, k;
};

/// Elements of a stored row of A and of B.
int64_t width_of_a(const Gemm& g) { return g.transpose_a ? Stored(g).m : Stored(g).k; }
int64_t width_of_b(const Gemm& g) { return g.transpose_b ? Stored(g).k : g.n; }

Product member(const Gemm& g, int64_t i, const void* bias) {
  Product p;
  const int64_t m0 = g.m_offsets ? g.m_offsets[i] : 0, k0 = g.k_offsets ? g.k_offsets[i] : 0;
  p.m = g.m_offsets ? g.m_offsets[i + 1] - m0 : g.m;
  p.n = g.n;
  p.k = g.k_offsets ? g.k_offsets[i + 1] - k0 : g.k;
  p.alpha = g.alpha;
  const int64_t ldc = g.ldc ? g.ldc : g.n;
  const int64_t lda = g.lda ? g.lda : width_of_a(g), ldb = g.ldb ? g.ldb : width_of_b(g);
  p.a =
      Matrix{member_pointer(g.a, g.a_list, i, g.a_stride, g.a_dtype), g.a_dtype, lda, g.transpose_a}
          .at(m0, k0);
  p.b =
      Matrix{member_pointer(g.b, g.b_list, i, g.b_stride, g.b_dtype), g.b_dtype, ldb, g.transpose_b}
          .at(k0, 0);
  const auto placed = [&](auto pointer) {
    return pointer == nullptr ? pointer : decltype(pointer)(advance(pointer, m0 * ldc, g.c_dtype));
  };
  p.out = {.dtype = g.c_dtype,
           .c = placed(member_pointer(g.c, g.c_list, i, g.c_stride, g.c_dtype)),
           .preactivation =
               placed(member_pointer<void*>(g.preactivation, nullptr, i, g.c_stride, g.c_dtype)),
           .residual =
               placed(member_pointer<const void*>(g.residual, nullptr, i, g.c_stride, g.c_dtype)),
           .bias = bias ? advance(bias, g.bias_list ? i * g.n : 0, acc_dtype(g.c_dtype)) : nullptr,
           .ldc = ldc,
           .activation = g.activation,
           .accumulate = g.accumulate};
  return p;
}

void check(const Gemm& g) {
  const auto wide = [](DType t) { return t == f64; };
  require(is_float(g.a_dtype) && is_float(g.b_dtype) && is_float(g.c_dtype),
          "gemm: wanted float matrices, got ", g.a_dtype, ", ", g.b_dtype, " and ", g.c_dtype);
  require(wide(g.a_dtype) == wide(g.b_dtype) && wide(g.a_dtype) == wide(g.c_dtype),
          "gemm: f64 goes only with f64, got ", g.a_dtype, ", ", g.b_dtype, " and ", g.c_dtype);
  for (const int64_t* offsets : {g.m_offsets, g.k_offsets})
    for (int64_t i = 0; offsets && i <= g.batch; ++i)
      require(offsets[i] >= (i ? offsets[i - 1] : 0), "gemm: offsets must not fall, got ",
              offsets[i], " after ", i ? offsets[i - 1] : 0);
  const auto [m, k] = Stored(g);
  require(std::min({m, g.n, k}) >= 0 && std::max({m, g.n, k, g.lda, g.ldb, g.ldc}) <= INT_MAX,
          "gemm: sizes ", m, " x ", g.n, " x ", k, " do not fit the matrix library's integers");
  const auto check_ld = [](const char* name, int64_t ld, int64_t width) {
    require(ld == 0 || ld >= width, "gemm: ", name, " ", ld, " is less than the ", width,
            " elements of a row");
  };
  check_ld("lda", g.lda, width_of_a(g));
  check_ld("ldb", g.ldb, width_of_b(g));
  check_ld("ldc", g.ldc, g.n);
  require(!g.c_list || (!g.preactivation && !g.residual),
          "gemm: a pointer list of results goes without preactivation and residual");
}

/// Runs the product on kernels of our own and returns true, where there are some for it.
bool run_own(const Product& p, const Stream& stream) {
  if (gemm_internal::is_thin(p)) return gemm_internal::run_thin(p, stream), true;
  const gemm_tiles::Unit* unit = gemm_tiles::unit_for(p);
  if (unit) gemm_tiles::multiply(*unit, p, stream);
  return unit != nullptr;
}

/// Biases of the batch in the type of the sums, one after another.
template <class A>
void gather_bias(const Gemm& g, A* to) {
  const int64_t count = g.bias_list ? g.batch : 1;
  for (int64_t i = 0; i < count; ++i)
    visit_float(g.bias_dtype, [&]<class T>() {
      const T* from = in<T>(g.bias_list ? g.bias_list[i] : g.bias);
      for (int64_t j = 0; j < g.n; ++j) to[i * g.n + j] = A(acc_t<T>(from[j]));
    });
}

template <class A>
void run_all(const Gemm& g) {
  const bool has_bias = g.bias != nullptr || g.bias_list != nullptr;
  const bool convert = has_bias && (g.bias_list || g.bias_dtype != dtype_of<A>);
  const Scratch<A> converted =
      g.stream.scratch<A>(size_t(convert ? g.n * (g.bias_list ? g.batch : 1) : 0));
  if (convert) gather_bias<A>(g, converted.get());
  const void* bias = convert ? converted.get() : g.bias;

  int64_t m = g.m, k = g.k;  // of the largest member: what the cut depends on
  for (int64_t i = 0; i < g.batch; ++i) {
    if (g.m_offsets) m = std::max(i ? m : 0, g.m_offsets[i + 1] - g.m_offsets[i]);
    if (g.k_offsets) k = std::max(i ? k : 0, g.k_offsets[i + 1] - g.k_offsets[i]);
  }
  const double work = 2.0 * double(m) * double(g.n) * double(k);
  if (g.batch > 1 && work < 5e7) {  // small members: whole ones side by side
    const int64_t grain = std::max<int64_t>(1, int64_t(1e6 / std::max(work, 1.0)));
    parallel_for(g.batch, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Product p = member(g, i, bias);
        if (!run_own(p, g.stream)) run_panel<A>(p, g.stream);
      }
    });
    return;
  }
  parallel_for(g.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Product p = member(g, i, bias);
      if (!run_own(p, g.stream)) run_cut<A>(p, cut_of(p.m, p.n, p.k), g.stream);
    }
  });
}

}  // namespace

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return "none";
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::silu:
      return "silu";
    case Activation::sigmoid:
      return "sigmoid";
    case Activation::tanh:
      return "tanh";
  }
  return "unknown";
}

const char* gemm_kernels(DType dtype) {
  const Matrix any{.dtype = dtype};
  const gemm_tiles::Unit* unit =
      gemm_tiles::unit_for({.a = any, .b = any, .m = 1024, .n = 1024, .k = 1024});
  return unit ? unit->name : "OpenBLAS";
}

void run(Cpu, const Gemm& g) {
  if (g.batch <= 0) return;
  check(g);
  if (g.n == 0 || (!g.m_offsets && g.m == 0)) return;
  if (g.c_dtype == f64) return run_all<double>(g);
  run_all<float>(g);
}

}  // namespace olm::kernels
