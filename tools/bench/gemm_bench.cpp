#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/gemm.h>

#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

/// The three GEMMs of a linear layer, all m x n x k. Weights and their gradients are f32 beside
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

/// The operands as stored, and the result.
struct Matrices {
  Tensor a, b, c;
};

Matrices make_matrices(const Layout& layout, const Sizes& shape, DType dtype) {
  const int64_t m = shape[0], n = shape[1], k = shape[2];
  const auto stored = [](int64_t rows, int64_t cols, bool transposed) {
    return transposed ? Shape{cols, rows} : Shape{rows, cols};
  };
  Generator rng(1);
  const Tensor a = uniform(stored(m, k, layout.transpose_a), rng, {.dtype = dtype});
  const DType b_dtype = layout.f32_b ? f32 : dtype, c_dtype = layout.f32_c ? f32 : dtype;
  const Tensor b = uniform(stored(k, n, layout.transpose_b), rng, {.dtype = b_dtype});
  return {a, b, zeros({m, n}, {.dtype = c_dtype})};
}

void multiply(const Layout& layout, const Matrices& x) {
  run(x.a.device().kind, kernels::Gemm{.a_dtype = x.a.dtype(),
                                       .b_dtype = x.b.dtype(),
                                       .c_dtype = x.c.dtype(),
                                       .a = x.a.data(),
                                       .b = x.b.data(),
                                       .c = x.c.mutable_data(),
                                       .transpose_a = layout.transpose_a,
                                       .transpose_b = layout.transpose_b,
                                       .m = x.c.size(0),
                                       .n = x.c.size(1),
                                       .k = x.a.size(layout.transpose_a ? 0 : 1),
                                       .stream = stream_of(x.a)});
}

/// Each row_step-th row of C.
Tensors exact_rows(const Layout& layout, const Matrices& x, int64_t row_step) {
  const int64_t along = layout.transpose_a ? 1 : 0;
  const Tensor a = raw::contiguous(raw::slice(x.a, along, 0, x.a.size(along), row_step));
  const Tensor c = zeros({a.size(along), x.c.size(1)}, {.dtype = f64});
  multiply(layout, {raw::cast(a, f64), raw::cast(x.b, f64), c});
  return {c};
}

}  // namespace

void add_gemm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t m = shape[0], n = shape[1], k = shape[2];
  const int64_t row_step = m > 512 ? 61 : 1;
  for (const Layout& layout : kLayouts) {
    const DType b_dtype = layout.f32_b ? f32 : dtype, c_dtype = layout.f32_c ? f32 : dtype;
    const double bytes = double(m * k) * double(size_of(dtype)) +
                         double(k * n) * double(size_of(b_dtype)) +
                         double(m * n) * double(size_of(c_dtype));
    const auto prepare = [=](Device device) {
      const Matrices made = make_matrices(layout, shape, dtype);
      const Matrices x{raw::to(made.a, device), raw::to(made.b, device), raw::to(made.c, device)};
      return [layout, x] {
        multiply(layout, x);
        return Tensors{x.c};
      };
    };
    cases.push_back(
        {.name = layout.name,
         .shape = text_of(shape),
         .pass = "forward",
         .dtype = dtype,
         .cost = {.flop = 2.0 * double(m * n) * double(k),
                  .bytes = bytes,
                  .traffic = Traffic::read,
                  .gemm = true},
         .prepare = prepare,
         .exact = [=] { return exact_rows(layout, make_matrices(layout, shape, dtype), row_step); },
         .row_step = row_step});
  }
}

}  // namespace olm::tools
