#pragma once
// From sums in f32 to C: bias, activation, residual, conversion.
#include <olm/kernels/gemm.h>
#include <olm/kernels/cuda/activation.cuh>
#include <olm/kernels/cuda/gemm/quad.cuh>
#include <olm/kernels/cuda/packet.cuh>

namespace olm::kernels::cuda_gemm {

/// C and what it is made of besides the sums S:
///   Z = S + bias     C = act(Z) + residual     (+ C where `accumulate`)
struct Epilogue {
  DType dtype = f32;               ///< of c, preactivation and residual
  void* c = nullptr;               ///< rows of `ldc` elements, as those of the next two
  void* preactivation = nullptr;   ///< where Z goes, or null
  const void* residual = nullptr;  ///< may be c
  const void* bias = nullptr;      ///< one row of bias_dtype, or null
  DType bias_dtype = f32;
  Activation activation = Activation::none;
  bool accumulate = false;
  bool vectors = false;                ///< quads_fit c, preactivation and residual
  int64_t ldc = 0, member_stride = 0;  ///< elements between rows, and between members of a batch
};

/// The epilogue of a member, or a part of it that lies at `offset` elements of C; all of its bias.
inline Epilogue epilogue_of(const Gemm& g, int64_t offset = 0) {
  const auto placed = [&](auto* p) {
    using Byte =
        std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(p)>>, const char, char>;
    return p ? static_cast<Byte*>(p) + offset * int64_t(size_of(g.c_dtype)) : nullptr;
  };
  Epilogue e{.dtype = g.c_dtype,
             .c = placed(g.c),
             .preactivation = placed(g.preactivation),
             .residual = placed(g.residual),
             .bias = g.bias,
             .bias_dtype = g.bias_dtype,
             .activation = g.activation,
             .accumulate = g.accumulate,
             .ldc = g.ldc,
             .member_stride = g.batch > 1 ? g.c_stride : 0};
  e.vectors = e.member_stride % 4 == 0;
  for (const void* p :
       {static_cast<const void*>(e.c), static_cast<const void*>(e.preactivation), e.residual})
    e.vectors = e.vectors && quads_fit(p, e.dtype, e.ldc);
  return e;
}

/// Writes columns [col, col + count) of row `row` of a member, given their sums.
__device__ inline void finish(const Epilogue& e, int64_t member, int64_t row, int64_t col,
                              int count, float (&v)[4]) {
  const int64_t at = member * e.member_stride + row * e.ldc + col;
  if (e.bias) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < count) v[j] += load_float(e.bias, e.bias_dtype, col + j);
  }
  if (e.preactivation) store_quad(e.preactivation, e.dtype, at, e.vectors, count, v);
  with_activation(e.activation, [&](auto activation) {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = activation.f(v[j]);
  });
  float more[4];
  if (e.residual) {
    load_quad(e.residual, e.dtype, at, e.vectors, count, more);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] += more[j];
  }
  if (e.accumulate) {
    load_quad(e.c, e.dtype, at, e.vectors, count, more);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] += more[j];
  }
  store_quad(e.c, e.dtype, at, e.vectors, count, v);
}

}  // namespace olm::kernels::cuda_gemm
