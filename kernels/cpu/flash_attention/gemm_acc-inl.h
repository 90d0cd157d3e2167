// GEMM of tiles in acc_dtype. The microkernel keeps kMR x 2 vectors of C in registers over the
// whole depth. A is read element by element and broadcast, so it may lie transposed; B is read by
// vectors along its rows. Nothing is blocked further: a tile of B, 64 x 64 f32, is 16 KiB and stays
// in L1. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_GEMM_ACC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_GEMM_ACC_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_GEMM_ACC_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_GEMM_ACC_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>
#include <limits>
#include <utility>

#include <olm/kernels/cpu/flash_attention/gemm_bf16.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using attention::kTile;
using attention::Span;
using attention::TileMask;

/// Rows of the microkernel: with 2 vectors each they fill 16 of the 32 registers of AVX-512, and 8
/// of 16 elsewhere: as many chains as two FMA units of a latency of 4 need. A power of two, so that
/// blocks of rows divide kTile.
constexpr int kMR = HWY_MAX_BYTES >= 64 ? 8 : 4;

/// Blocks of a tile mask begin and end at whole vectors and at whole rows of the microkernel, which
/// take their turn as rows where the tile is used transposed.
template <class A>
constexpr int64_t span_alignment() {
  return std::max<int64_t>(HWY_MAX_BYTES / int64_t(sizeof(A)), kMR);
}

/// The A operand: element (r, k) at data[r · row + k · depth].
template <class A>
struct Left {
  const A* data = nullptr;
  int64_t row = 0, depth = 0;
};

/// C[r, 0..V vectors) = (+=) Σ over k in `depth` of left(r, k) · B[k, …), r < kMR.
template <int V, bool Add, class A>
HWY_INLINE void microkernel(Left<A> left, const A* HWY_RESTRICT b, int64_t ldb, Span depth,
                            A* HWY_RESTRICT c, int64_t ldc) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  // The loops over r and v must be unrolled, or GCC keeps the sums in memory.
  hn::Vec<decltype(d)> sum[kMR][V];
#pragma GCC unroll 8
  for (int r = 0; r < kMR; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      sum[r][v] = Add ? hn::LoadU(d, c + r * ldc + v * lanes) : hn::Zero(d);
  const A* a = left.data + depth.begin * left.depth;
  b += depth.begin * ldb;
  for (int64_t k = depth.begin; k < depth.end; ++k, a += left.depth, b += ldb) {
    hn::Vec<decltype(d)> right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = hn::LoadU(d, b + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kMR; ++r) {
      const auto x = hn::Set(d, a[r * left.row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(x, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kMR; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, c + r * ldc + v * lanes);
}

/// S[i, j] = Σ_k rows[i, k] · columns[k, j] inside the mask: rows [kTile, ld] of depth `depth`,
/// columns [depth, kTile]. Two vectors of columns stay in L1 while all rows go past them.
template <class A>
void gemm_scores(const TileMask& mask, const A* rows, int64_t ld, const A* columns, int64_t depth,
                 A* S) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  for (int64_t c = 0; c < kTile; c += 2 * lanes)
    for (int64_t n = 0; n < mask.block_count; ++n) {
      const Span span = mask.blocks[n];
      if (span.end <= c || span.begin >= c + 2 * lanes) continue;
      const Left<A> left{rows + n * kMR * ld, ld, 1};
      microkernel<2, false>(left, columns + c, kTile, {0, depth}, S + n * kMR * kTile + c, kTile);
    }
}

/// All columns of kMR rows: C[r, :] += Σ_k left(r, k) · B[k, :], where `cols` is a multiple of the
/// vector.
template <class A>
HWY_INLINE void gemm_rows(Left<A> left, const A* b, int64_t cols, Span depth, A* c) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  int64_t at = 0;
  for (; at + 2 * lanes <= cols; at += 2 * lanes)
    microkernel<2, true>(left, b + at, cols, depth, c + at, cols);
  if (at < cols) microkernel<1, true>(left, b + at, cols, depth, c + at, cols);
}

/// out[i, :] += Σ_j P[i, j] · values[j, :] inside the mask; values and out [kTile, cols].
template <class A>
void gemm_by_query(const TileMask& mask, const A* P, const A* values, int64_t cols, A* out) {
  for (int64_t n = 0; n < mask.block_count; ++n) {
    if (mask.blocks[n].empty()) continue;
    const Left<A> left{P + n * kMR * kTile, kTile, 1};
    gemm_rows(left, values, cols, mask.blocks[n], out + n * kMR * cols);
  }
}

/// out[j, :] += Σ_i P[i, j] · values[i, :] inside the mask: with P transposed.
template <class A>
void gemm_by_key(const TileMask& mask, const A* P, const A* values, int64_t cols, A* out) {
  for (int64_t j = 0; j < kTile; j += kMR) {
    const Span rows = mask.rows_reaching(j, j + kMR);
    if (rows.empty()) continue;
    gemm_rows(Left<A>{P + j, 1, kTile}, values, cols, rows, out + j * cols);
  }
}

/// dst[r, c] = scale · src[r, c], padded with zeros to [kTile, cols_padded].
template <class T, class A>
void pack_rows(const T* src, int64_t stride, int64_t rows, int64_t cols, A scale, A* dst,
               int64_t cols_padded) {
  const hn::ScalableTag<A> d;
  const auto factor = hn::Set(d, scale);
  for (int64_t r = 0; r < kTile; ++r) {
    A* to = dst + r * cols_padded;
    const int64_t n = r < rows ? cols : 0;
    const T* from = src + r * stride;
    if (n < cols_padded) std::fill(to + n, to + cols_padded, A(0));
    for_vectors(d, n, [&](int64_t c, auto part) HWY_ATTR {
      store(d, hn::Mul(factor, load(d, from + c, part)), to + c, part);
    });
  }
}

/// dst[c, r] = src[r, c]: src [kTile, cols_padded], dst [cols, kTile]. Four rows are interleaved at
/// a time, so that each column is written by pieces of four.
template <class A>
void transpose_tile(const A* src, int64_t cols, int64_t cols_padded, A* dst) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  HWY_ALIGN A quads[4 * HWY_MAX_BYTES / sizeof(A)];
  for (int64_t r = 0; r < kTile; r += 4)
    for (int64_t c = 0; c < cols; c += lanes) {
      const A* from = src + r * cols_padded + c;
      hn::StoreInterleaved4(hn::LoadU(d, from), hn::LoadU(d, from + cols_padded),
                            hn::LoadU(d, from + 2 * cols_padded),
                            hn::LoadU(d, from + 3 * cols_padded), d, quads);
      const int64_t n = std::min(lanes, cols - c);
      for (int64_t l = 0; l < n; ++l)
        std::memcpy(dst + (c + l) * kTile + r, quads + 4 * l, 4 * sizeof(A));
    }
}

/// to[c] = scale · from[c].
template <class T, class A>
HWY_INLINE void unpack_row(const A* from, int64_t cols, A scale, T* to) {
  const hn::ScalableTag<A> d;
  const auto factor = hn::Set(d, scale);
  for_vectors(d, cols, [&](int64_t c, auto part) HWY_ATTR {
    store(d, hn::Mul(factor, load(d, from + c, part)), to + c, part);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
