// Gradient of attention's additive mask: dmask = dS, summed over what the mask was repeated to (one
// mask for all heads, or one row for all queries). A pass of its own, since the tasks of
// backward.cpp own keys of one head, so several of them would add to an element of a repeated mask.
// Here a task owns a tile of the mask and adds up, in order, dS of everything that tile was
// repeated to. That computes S and dP once more, but only where a mask is trained. A stride of 0 in
// dmask_strides says that a dimension was repeated.
#include <olm/kernels/flash_attention.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/mask_gradient.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/products_acc-inl.h>
#include <olm/kernels/cpu/flash_attention/products_bf16-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// Indices of one dimension that a mask element stands for: one, or all where it was repeated.
HWY_INLINE Span covered(bool repeated, int64_t index, int64_t size) {
  return repeated ? Span{0, size} : Span{index, index + 1};
}

/// Adds dS inside the mask to `sums` [kTile, kTile].
template <class A>
void add_tile(const TileMask& mask, const A* dS, A* sums) {
  const hn::ScalableTag<A> d;
  for (int64_t r = 0; r < mask.block_count * mask.block_rows; ++r) {
    const Span block = mask.blocks[r / mask.block_rows];
    for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d))) {
      A* to = sums + r * kTile + c;
      hn::StoreU(hn::Add(hn::LoadU(d, to), hn::LoadU(d, dS + r * kTile + c)), d, to);
    }
  }
}

/// Writes a tile of dmask whose sums are complete but for repeated queries and keys: those meet
/// here, all tiles of them having been added to one, whose rows or columns become the first. Pairs
/// past the edges of the tensor are outside of every tile mask, so that their sums are 0.
template <class A>
void write_tile(const FlashAttentionBackward& f, const int64_t* index, A* sums) {
  const Attention& a = f.attention;
  const int64_t* s = f.dmask_strides;
  const int64_t rows = s[2] ? std::min(kTile, a.queries - index[2] * kTile) : 1;
  const int64_t cols = s[3] ? std::min(kTile, a.keys - index[3] * kTile) : 1;
  if (!s[2])
    for (int64_t r = 1; r < kTile; ++r)
      for (int64_t c = 0; c < kTile; ++c) sums[c] += sums[r * kTile + c];
  if (!s[3])
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 1; c < kTile; ++c) sums[r * kTile] += sums[r * kTile + c];
  A* to = out<A>(f.dmask) + index[0] * s[0] + index[1] * s[1] + index[2] * kTile * s[2] +
          index[3] * kTile * s[3];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[r * s[2] + c * s[3]] = sums[r * kTile + c];
}

/// The tile of dmask at `index`: batch row, head, tile of queries, tile of keys.
template <BackwardTileProducts Products>
void mask_tile(const FlashAttentionBackward& f, const BackwardPack& pack, const int64_t* index) {
  using A = typename Products::A;
  const Attention& a = f.attention;
  const int64_t* s = f.dmask_strides;
  const size_t tile_size = size_t(kTile * kTile);
  // 64 KiB of f32: sums, P, dS and what the softcap takes.
  const Scratch<A> memory = f.stream.scratch<A>(GradientTile<A>::size() + tile_size);
  A* sums = memory.get();
  std::fill_n(sums, tile_size, A(0));
  const GradientTile<A> tile(sums + tile_size);
  const Span batches = covered(s[0] == 0, index[0], a.batch);
  const Span heads = covered(s[1] == 0, index[1], a.heads);
  // By whole tiles here: single queries and keys are told apart by write_tile() alone.
  const Span queries = covered(s[2] == 0, index[2], pack.sizes.query_tiles);
  const Span keys = covered(s[3] == 0, index[3], pack.sizes.key_tiles);
  const Products products(f, pack);
  TileMask mask;
  for (int64_t b = batches.begin; b < batches.end; ++b)
    for (int64_t h = heads.begin; h < heads.end; ++h)
      for (int64_t i = queries.begin; i < queries.end; ++i)
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          const Place p{.b = b, .h = h, .i0 = i * kTile, .j0 = j * kTile};
          if (!find_tile_mask(a, p, kMR, span_alignment<A>(), mask)) continue;
          // The mask is added behind the softcap, so its gradient does not go through that.
          recompute_P_dS(products, a, pack, p, mask, false, tile);
          add_tile(mask, tile.dS, sums);
        }
  write_tile(f, index, sums);
}

void mask_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                int64_t end) {
  const Attention& a = f.attention;
  const int64_t* s = f.dmask_strides;
  const int64_t sizes[4] = {s[0] ? a.batch : 1, s[1] ? a.heads : 1,
                            s[2] ? pack.sizes.query_tiles : 1, s[3] ? pack.sizes.key_tiles : 1};
  for (int64_t n = begin; n < end; ++n) {
    int64_t index[4], rest = n;
    for (int d = 3; d >= 0; --d) {
      index[d] = rest % sizes[d];
      rest /= sizes[d];
    }
    // Only packed operands are read, and those are f32 for f16 and bf16 too: no code of their own.
    if (a.dtype == f64)
      mask_tile<AccBackward<double>>(f, pack, index);
    else if (pack.kernel)
      mask_tile<Bf16Backward>(f, pack, index);
    else
      mask_tile<AccBackward<float>>(f, pack, index);
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {

HWY_EXPORT(mask_tiles);

void attention::mask_gradient(const FlashAttentionBackward& f, const BackwardPack& pack) {
  const Attention& a = f.attention;
  const int64_t* s = f.dmask_strides;
  const int64_t tiles = (s[0] ? a.batch : 1) * (s[1] ? a.heads : 1) *
                        (s[2] ? pack.sizes.query_tiles : 1) * (s[3] ? pack.sizes.key_tiles : 1);
  parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(mask_tiles)(f, pack, begin, end);
  });
}

}  // namespace olm::kernels
#endif
