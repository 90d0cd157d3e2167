// The call of the contract: checks, and the members of the batch.
#include <algorithm>
#include <climits>

#include <olm/kernels/cpu/gemm/members.h>

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

/// Elements of a stored row of A and of B.
int64_t width_of_a(const Gemm& g) { return g.transpose_a ? g.m : g.k; }
int64_t width_of_b(const Gemm& g) { return g.transpose_b ? g.k : g.n; }

/// Member i of the batch; `bias` is in acc_dtype of C.
Problem member(const Gemm& g, int64_t i, const void* bias) {
  const int64_t lda = g.lda ? g.lda : width_of_a(g), ldb = g.ldb ? g.ldb : width_of_b(g);
  const auto of_c = [&](auto base, auto list) {
    return member_pointer<decltype(base)>(base, list, i, g.c_stride, g.c_dtype);
  };
  Problem p{.m = g.m, .n = g.n, .k = g.k, .alpha = g.alpha};
  p.a = {member_pointer(g.a, g.a_list, i, g.a_stride, g.a_dtype), g.a_dtype, lda, g.transpose_a};
  p.b = {member_pointer(g.b, g.b_list, i, g.b_stride, g.b_dtype), g.b_dtype, ldb, g.transpose_b};
  p.epilogue = {.dtype = g.c_dtype,
                .c = of_c(g.c, g.c_list),
                .preactivation = of_c(g.preactivation, nullptr),
                .residual = of_c(g.residual, nullptr),
                .bias = bias,
                .ldc = g.ldc ? g.ldc : g.n,
                .activation = g.activation,
                .accumulate = g.accumulate};
  return p;
}

template <class A>
void run_batch(const Gemm& g) {
  const bool convert = g.bias != nullptr && g.bias_dtype != dtype_of<A>;
  const Scratch<A> converted = g.stream.scratch<A>(size_t(convert ? g.n : 0));
  if (convert) gemm::widen_bias(g.bias_dtype, g.bias, g.n, converted.get());
  const void* bias = convert ? converted.get() : g.bias;
  gemm::run_members(g.batch, gemm::flop_of(member(g, 0, bias)), g.stream,
                    [&](int64_t i) { return member(g, i, bias); });
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
      gemm::microkernel_for({.a = any, .b = any, .m = 1024, .n = 1024, .k = 1024});
  return kernel ? kernel->name : "OpenBLAS";
}

void check(const Gemm& g) {
  gemm::check_dtypes(g.name, g.a_dtype, g.b_dtype, g.c_dtype);
  require(
      std::min({g.m, g.n, g.k}) >= 0 && std::max({g.m, g.n, g.k, g.lda, g.ldb, g.ldc}) <= INT_MAX,
      "gemm: sizes ", g.m, " x ", g.n, " x ", g.k, " do not fit the matrix library's integers");
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

void run(Cpu, const Gemm& g) {
  if (g.batch <= 0) return;
  check(g);
  if (g.n == 0 || g.m == 0) return;
  if (g.c_dtype == f64) return run_batch<double>(g);
  run_batch<float>(g);
}

}  // namespace olm::kernels
