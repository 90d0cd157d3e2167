#include <olm/kernels/gemm.h>

#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

/// The three products of a linear layer, all m x n x k. Weights and their gradients are f32 beside
/// activations of any dtype, as in training.
struct Layout {
  const char* name;
  bool transpose_a, transpose_b;
  bool f32_b, f32_c;
};
constexpr Layout kLayouts[] = {
    {"gemm NT", false, true, true, false},   // y = x · Wᵀ
    {"gemm NN", false, false, true, false},  // dx = dy · W
    {"gemm TN", true, false, false, true},   // dW = dyᵀ · x
};

}  // namespace

void add_gemm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t m = shape[0], n = shape[1], k = shape[2];
  for (const Layout& layout : kLayouts) {
    const DType b_dtype = layout.f32_b ? f32 : dtype, c_dtype = layout.f32_c ? f32 : dtype;
    const double bytes = double(m * k) * double(size_of(dtype)) +
                         double(k * n) * double(size_of(b_dtype)) +
                         double(m * n) * double(size_of(c_dtype));
    const auto prepare = [=] {
      Generator rng(1);
      const Tensor a = uniform({m, k}, rng, {.dtype = dtype});
      const Tensor b = uniform({k, n}, rng, {.dtype = b_dtype});
      const Tensor c = zeros({m, n}, {.dtype = c_dtype});
      return [=]() -> Tensors {
        run(cpu.kind, kernels::Gemm{.a_dtype = dtype,
                                    .b_dtype = b_dtype,
                                    .c_dtype = c_dtype,
                                    .a = a.data(),
                                    .b = b.data(),
                                    .c = c.mutable_data(),
                                    .transpose_a = layout.transpose_a,
                                    .transpose_b = layout.transpose_b,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .stream = stream_of(a)});
        return {};
      };
    };
    cases.push_back({.name = layout.name,
                     .shape = text_of(shape),
                     .pass = "forward",
                     .dtype = dtype,
                     .cost = {.flop = 2.0 * double(m * n) * double(k),
                              .bytes = bytes,
                              .traffic = Traffic::read,
                              .products = true},
                     .prepare = prepare});
  }
}

}  // namespace olm::tools
