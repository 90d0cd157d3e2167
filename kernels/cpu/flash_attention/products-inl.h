// Products of tiles in acc_dtype. The inner block keeps kBlockRows x 2 vectors of sums in registers
// over the whole depth; its left operand is read element by element, so it may lie transposed.
// Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>
#include <limits>
#include <utility>

#include <olm/kernels/cpu/flash_attention/pairs.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using attention::kTile;
using attention::Region;
using attention::Span;

/// Rows of sums in registers: 16 of 32 registers with AVX-512, 8 of 16 elsewhere.
constexpr int kBlockRows = HWY_MAX_BYTES >= 64 ? 8 : 4;

/// Spans of a tile are aligned to whole vectors and whole blocks.
template <class A>
constexpr int64_t span_alignment() {
  return std::max<int64_t>(HWY_MAX_BYTES / int64_t(sizeof(A)), kBlockRows);
}

/// The left operand of a product: element (r, k) at data[r · row + k · depth].
template <class A>
struct Left {
  const A* data = nullptr;
  int64_t row = 0, depth = 0;
};

/// c[r, 0..V vectors) = (+=) Σ over k in `depth` of left(r, k) · b[k, …), r < kBlockRows.
template <int V, bool Add, class A>
HWY_INLINE void product_block(Left<A> left, const A* HWY_RESTRICT b, int64_t ldb, Span depth,
                              A* HWY_RESTRICT c, int64_t ldc) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  hn::Vec<decltype(d)> sum[kBlockRows][V];
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r)
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
    for (int r = 0; r < kBlockRows; ++r) {
      const auto x = hn::Set(d, a[r * left.row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(x, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, c + r * ldc + v * lanes);
}

/// scores[r, c] = Σ_k rows[r, k] · columns[k, c] inside the region: rows [kTile, ld] of depth
/// `depth`, columns [depth, kTile].
template <class A>
void score_product(const Region& region, const A* rows, int64_t ld, const A* columns, int64_t depth,
                   A* scores) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  for (int64_t c = 0; c < kTile; c += 2 * lanes)
    for (int64_t n = 0; n < region.count; ++n) {
      const Span span = region.blocks[n];
      if (span.end <= c || span.begin >= c + 2 * lanes) continue;
      const Left<A> left{rows + n * kBlockRows * ld, ld, 1};
      product_block<2, false>(left, columns + c, kTile, {0, depth},
                              scores + n * kBlockRows * kTile + c, kTile);
    }
}

/// All columns of one block of rows: c[r, :] += Σ_k left(r, k) · b[k, :], where `cols` is a
/// multiple of the vector.
template <class A>
HWY_INLINE void add_product(Left<A> left, const A* b, int64_t cols, Span depth, A* c) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  int64_t at = 0;
  for (; at + 2 * lanes <= cols; at += 2 * lanes)
    product_block<2, true>(left, b + at, cols, depth, c + at, cols);
  if (at < cols) product_block<1, true>(left, b + at, cols, depth, c + at, cols);
}

/// As add_product, but a left element of 0 adds nothing, even where `b` holds NaN or infinities.
template <class A>
void add_nonzero_product(Left<A> left, const A* b, int64_t cols, Span depth, A* c) {
  const hn::ScalableTag<A> d;
  for (int64_t r = 0; r < kBlockRows; ++r)
    for (int64_t k = depth.begin; k < depth.end; ++k) {
      const A x = left.data[r * left.row + k * left.depth];
      if (x == 0) continue;
      for (int64_t at = 0; at < cols; at += int64_t(hn::Lanes(d))) {
        A* to = c + r * cols + at;
        hn::StoreU(hn::MulAdd(hn::Set(d, x), hn::LoadU(d, b + k * cols + at), hn::LoadU(d, to)), d,
                   to);
      }
    }
}

/// A packed tile [kTile, cols] that weights are multiplied with.
template <class A>
struct Rows {
  const A* data = nullptr;
  int64_t cols = 0;
  bool finite = true;
};
template <class A>
HWY_INLINE void add_product(Left<A> left, const Rows<A>& rows, Span depth, A* c) {
  if (rows.finite)
    add_product(left, rows.data, rows.cols, depth, c);
  else
    add_nonzero_product(left, rows.data, rows.cols, depth, c);
}

/// True where `n` elements, a multiple of the vector, are finite.
template <class A>
bool all_finite(const A* x, int64_t n) {
  const hn::ScalableTag<A> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto infinity = hn::BitCast(du, hn::Set(d, std::numeric_limits<A>::infinity()));
  auto most = hn::Zero(du);
  for (int64_t i = 0; i < n; i += int64_t(hn::Lanes(d)))
    most = hn::Max(most, hn::BitCast(du, hn::Abs(hn::LoadU(d, x + i))));
  return hn::AllTrue(du, hn::Lt(most, infinity));
}

/// True where all elements of the rows are finite.
HWY_ATTR inline bool all_finite(const attention::PairRows& x) {
  const hn::ScalableTag<uint16_t> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto exponent = hn::Set(d, uint16_t(0x7f80));
  auto none = hn::Eq(exponent, hn::Zero(d));
  uint16_t some = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    const uint16_t* row = &x.data[r * x.stride].bits;
    int64_t c = 0;
    for (; c + lanes <= x.cols; c += lanes)
      none = hn::Or(none, hn::Eq(hn::And(hn::LoadU(d, row + c), exponent), exponent));
    for (; c < x.cols; ++c) some = uint16_t(some | ((row[c] & 0x7f80) == 0x7f80));
  }
  return some == 0 && hn::AllFalse(d, none);
}

/// out[i, :] += Σ_j weights[i, j] · values[j, :] inside the region; out: like values. A weight of 0
/// takes nothing, even of NaN.
template <class A>
void add_by_query(const Region& region, const A* weights, const Rows<A>& values, A* out) {
  for (int64_t n = 0; n < region.count; ++n) {
    if (region.blocks[n].empty()) continue;
    const Left<A> left{weights + n * kBlockRows * kTile, kTile, 1};
    add_product(left, values, region.blocks[n], out + n * kBlockRows * values.cols);
  }
}

/// out[j, :] += Σ_i weights[i, j] · values[i, :] inside the region, in the same way.
template <class A>
void add_by_key(const Region& region, const A* weights, const Rows<A>& values, A* out) {
  for (int64_t j = 0; j < kTile; j += kBlockRows) {
    const Span rows = attention::rows_reaching(region, j, j + kBlockRows);
    if (rows.empty()) continue;
    add_product(Left<A>{weights + j, 1, kTile}, values, rows, out + j * values.cols);
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

/// dst[c, r] = src[r, c]: src [kTile, cols_padded], dst [cols, kTile].
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
