// The vector code around GEMM: operands widened to f32, panels finished while they are in cache
// (bias, activation, residual, conversion), and the backward of that finish. Bias gradients sum
// fixed blocks of rows, then the blocks in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/gemm_epilogue.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/gemm_internal.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using gemm_internal::Finish;

/// One row: z = source + bias, y = act(z) + residual (+ y).
template <class T, Activation Act>
HWY_INLINE void finish_row(const Finish& f, int64_t r) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A* source = row<A>(f.source, r, f.source_ld);
  T* y = row_out<T>(f.c, r, f.ldc);
  const A* bias = in<A>(f.bias);
  T* z_out = f.preactivation ? row_out<T>(f.preactivation, r, f.ldc) : nullptr;
  const T* residual = f.residual ? row<T>(f.residual, r, f.ldc) : nullptr;
  for_results(d, y, f.cols, f.past_caches, [&](int64_t c, auto part) HWY_ATTR {
    auto z = load(d, source + c, part);
    if (bias) z = hn::Add(z, load(d, bias + c, part));
    if (z_out) store(d, z, z_out + c, part);
    auto v = activate<Act, T>(d, z);
    if (residual) v = hn::Add(v, load(d, residual + c, part));
    if (f.accumulate) v = hn::Add(v, load(d, y + c, part));
    store(d, v, y + c, part);
  });
}

void finish_panel(const Finish& f) {
  visit_float(f.dtype, [&]<class T>() {
    visit_activation(f.activation, [&]<Activation Act>() {
      for (int64_t r = 0; r < f.rows; ++r) finish_row<T, Act>(f, r);
    });
  });
}

template <class T>
HWY_INLINE void widen_rows(const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols) {
  const hn::ScalableTag<float> d;
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = row<T>(src, r, ld);
    float* to = dst + r * cols;
    for_vectors(d, cols, [&](int64_t c, auto part) HWY_ATTR {
      store(d, load(d, from + c, part), to + c, part);
    });
  }
}

void widen_matrix(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols) {
  if (from == bf16) return widen_rows<bfloat16_t>(src, ld, dst, rows, cols);
  if (from == f16) return widen_rows<float16_t>(src, ld, dst, rows, cols);
  widen_rows<float>(src, ld, dst, rows, cols);
}

/// dz of rows [begin, end), and their sum over rows added to `partial` unless that is null.
template <class T, Activation Act>
HWY_INLINE void backward_rows(const GemmEpilogueBackward& k, int64_t begin, int64_t end,
                              acc_t<T>* partial) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  for (int64_t r = begin; r < end; ++r) {
    const T* dy = row<T>(k.dy, r, k.cols);
    const T* z = k.z ? row<T>(k.z, r, k.cols) : nullptr;
    T* dz = k.dz ? row_out<T>(k.dz, r, k.cols) : nullptr;
    for_vectors(d, k.cols, [&](int64_t c, auto part) HWY_ATTR {
      auto g = load_ahead(d, dy + c, part);
      if constexpr (Act != Activation::none)
        g = hn::Mul(g, activate_gradient<Act, T>(d, load_ahead(d, z + c, part)));
      if (dz) store(d, g, dz + c, part);
      if (partial) store(d, hn::Add(g, load(d, partial + c, part)), partial + c, part);
    });
  }
}

void backward_block(const GemmEpilogueBackward& k, int64_t begin, int64_t end, void* partial) {
  visit_float(k.dtype, [&]<class T>() {
    visit_activation(k.activation, [&]<Activation Act>() {
      backward_rows<T, Act>(k, begin, end, out<acc_t<T>>(partial));
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <olm/kernels/cpu/row_blocks.h>

namespace olm::kernels {

HWY_EXPORT(finish_panel);
HWY_EXPORT(widen_matrix);
HWY_EXPORT(backward_block);

namespace gemm_internal {
void finish(const Finish& f) { HWY_DYNAMIC_DISPATCH(finish_panel)(f); }
void widen(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols) {
  HWY_DYNAMIC_DISPATCH(widen_matrix)(from, src, ld, dst, rows, cols);
}
}  // namespace gemm_internal

void run(Cpu, const GemmEpilogueBackward& k) {
  visit_float(k.dtype, [&]<class T>() {
    const ColumnSums<acc_t<T>> dbias{.to = out<acc_t<T>>(k.dbias), .accumulate = k.accumulate};
    for_row_blocks(k.rows, k.cols, k.stream, dbias, [&](int64_t begin, int64_t end, auto* partial) {
      HWY_DYNAMIC_DISPATCH(backward_block)(k, begin, end, partial);
    });
  });
}

}  // namespace olm::kernels
#endif
