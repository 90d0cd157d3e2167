// The vector code around GEMM: operands widened to f32; the epilogue, which finishes a tile of sums
// while it is in L1 (bias, activation, residual, conversion), so that C is written once; and the
// backward of the epilogue. Bias gradients sum fixed blocks of rows, then the blocks in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/gemm/epilogue.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/gemm/epilogue.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using gemm::Epilogue;
using gemm::SumsView;

/// One row, in one pass, with what is absent skipped by branches that always go the same way:
/// z = sums + bias, y = act(z) + residual (+ y). Sums, residual and C of a vector are read
/// before C is written, so that the first two may lie in C. `act` sees z before it is rounded to T;
/// backward is left the rounded one.
template <class T, Activation Act>
HWY_INLINE void epilogue_row(const Epilogue& e, const SumsView& from, int64_t r) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A* sums = row<A>(from.data, r, from.ld);
  T* y = row_out<T>(e.c, r, e.ldc);
  const A* bias = in<A>(e.bias);
  T* z_out = e.preactivation ? row_out<T>(e.preactivation, r, e.ldc) : nullptr;
  const T* residual = e.residual ? row<T>(e.residual, r, e.ldc) : nullptr;
  for_stores(d, y, from.cols, e.non_temporal, [&](int64_t c, auto part) HWY_ATTR {
    auto z = load(d, sums + c, part);
    if (bias) z = hn::Add(z, load(d, bias + c, part));
    if (z_out) store(d, z, z_out + c, part);
    auto v = activate<Act, T>(d, z);
    if (residual) v = hn::Add(v, load(d, residual + c, part));
    if (e.accumulate) v = hn::Add(v, load(d, y + c, part));
    store(d, v, y + c, part);
  });
}

/// Only dtype and activation make code of their own: both change what is done to each vector.
void epilogue_tile(const Epilogue& e, const SumsView& sums) {
  visit_float(e.dtype, [&]<class T>() {
    visit_activation(e.activation, [&]<Activation Act>() {
      for (int64_t r = 0; r < sums.rows; ++r) epilogue_row<T, Act>(e, sums, r);
    });
  });
}

/// Rows become tight: CBLAS then takes them as they are, with ld = cols.
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

/// dz of rows [begin, end), and their sum over rows added to `partial` unless that is null. Without
/// an activation dz is dy: the caller then wants the sum alone, and neither z nor dz is there.
template <class T, Activation Act>
HWY_INLINE void backward_rows(const GemmEpilogueBackward& k, int64_t begin, int64_t end,
                              acc_t<T>* partial) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  for (int64_t r = begin; r < end; ++r) {
    const T* dy = row<T>(k.dy, r, row_stride(k.dy_stride, k.cols));
    const T* z = k.z ? row<T>(k.z, r, k.cols) : nullptr;
    T* dz = k.dz ? row_out<T>(k.dz, r, k.cols) : nullptr;
    for_vectors(d, k.cols, [&](int64_t c, auto part) HWY_ATTR {
      auto g = load_and_prefetch(d, dy + c, part);
      if constexpr (Act != Activation::none)
        g = hn::Mul(g, activate_gradient<Act, T>(d, load_and_prefetch(d, z + c, part)));
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

HWY_EXPORT(epilogue_tile);
HWY_EXPORT(widen_matrix);
HWY_EXPORT(backward_block);

namespace gemm {
void apply(const Epilogue& epilogue, const SumsView& sums) {
  HWY_DYNAMIC_DISPATCH(epilogue_tile)(epilogue, sums);
}
void widen(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols) {
  HWY_DYNAMIC_DISPATCH(widen_matrix)(from, src, ld, dst, rows, cols);
}
}  // namespace gemm

// dbias is summed in the same pass that makes dz, while dz is in registers: a second one would read
// all of dz from memory again.
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
