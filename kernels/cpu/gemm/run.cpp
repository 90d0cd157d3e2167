// The call of the contract: checks, the members of the batch, and which implementation takes each.
#include <algorithm>
#include <climits>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/gemm/blocked.h>
#include <olm/kernels/cpu/gemm/cblas.h>
#include <olm/kernels/cpu/gemm/small_m.h>

namespace olm::kernels {
namespace {

using gemm::advance;
using gemm::Matrix;
using gemm::MicroKernel;
using gemm::Problem;

template <class Pointer>
Pointer member_pointer(Pointer base, Pointer const* list, int64_t i, int64_t stride, DType t) {
  if (list != nullptr) return list[i];
  return base == nullptr ? base : Pointer(advance(base, i * stride, t));
}

/// Rows and K as stored: of all groups together, where offsets cut them.
struct Stored {
  explicit Stored(const Gemm& g)
      : m(g.m_offsets ? g.m_offsets[g.batch] : g.m), k(g.k_offsets ? g.k_offsets[g.batch] : g.k) {}
  int64_t m, k;
};

/// Elements of a stored row of A and of B.
int64_t width_of_a(const Gemm& g) { return g.transpose_a ? Stored(g).m : Stored(g).k; }
int64_t width_of_b(const Gemm& g) { return g.transpose_b ? Stored(g).k : g.n; }

/// Member i of the batch; `bias` is that of all members in acc_dtype of C. Groups that offsets cut
/// lie in one stored matrix: m_offsets are rows of A and C (and of what lies as C does), k_offsets
/// the K of A and rows of B.
Problem member(const Gemm& g, int64_t i, const void* bias) {
  Problem p;
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
  p.epilogue = {
      .dtype = g.c_dtype,
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

// Less than these a microkernel does not gain by: a side of C that leaves most of its tile empty,
// and multiplications fewer than packing and tasks cost.
constexpr int64_t kMinSide = 8;
constexpr double kMinMultiplications = 65536;
// FLOP of a member from which on each is cut by itself; smaller ones are whole, side by side, as
// many to a task as make 1 MFLOP.
constexpr double kMinFlopToCut = 5e7, kTaskFlop = 1e6;

/// Null where there is none for the operands, or nothing is gained by it.
const MicroKernel* microkernel_for(const Problem& p) {
  const DType a = p.a.dtype, b = p.b.dtype;
  const auto fits = [](DType t) { return t == bf16 || t == f32; };
  if (!fits(a) || !fits(b) || std::min(p.m, p.n) < kMinSide) return nullptr;
  if (double(p.m) * double(p.n) * double(p.k) < kMinMultiplications) return nullptr;
  return gemm::best_microkernel(a == f32 && b == f32 ? f32 : bf16);
}

void run_member(const Problem& p, bool cut, const Stream& stream) {
  if (gemm::is_small_m(p)) return gemm::run_small_m(p, stream);
  if (const MicroKernel* kernel = microkernel_for(p)) return gemm::run_blocked(*kernel, p, stream);
  cut ? gemm::run_cblas(p, stream) : gemm::run_cblas_whole(p, stream);
}

/// Biases of the batch in the type of the sums, one after another, so that the epilogue adds them
/// by vectors whatever their dtype is.
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
void run_batch(const Gemm& g) {
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
  const double flop = 2.0 * double(m) * double(g.n) * double(k);
  // Large members are cut into tasks of their own; small ones are whole, side by side. Where both
  // are mixed the largest decides, for all alike.
  const bool cut = g.batch == 1 || flop >= kMinFlopToCut;
  const int64_t grain = cut ? 1 : std::max<int64_t>(1, int64_t(kTaskFlop / std::max(flop, 1.0)));
  parallel_for(g.batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_member(member(g, i, bias), cut, g.stream);
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
  const MicroKernel* kernel =
      microkernel_for({.a = any, .b = any, .m = 1024, .n = 1024, .k = 1024});
  return kernel ? kernel->name : "OpenBLAS";
}

void run(Cpu, const Gemm& g) {
  if (g.batch <= 0) return;
  check(g);
  if (g.n == 0 || (!g.m_offsets && g.m == 0)) return;
  if (g.c_dtype == f64) return run_batch<double>(g);
  run_batch<float>(g);
}

}  // namespace olm::kernels
