#pragma once
// Operands of attention, packed by tiles.
#include <olm/kernels/cpu/flash_attention/run.h>

namespace olm::kernels::attention {

/// Tiles, each of so many bytes.
struct PackedTiles {
  char* data = nullptr;
  int64_t bytes = 0;
  template <class W>
  W* at(int64_t tile) const {
    return reinterpret_cast<W*>(data + tile * bytes);
  }
};

/// What S as the GEMM leaves it is still to be multiplied by. In acc_dtype the scale is in the
/// packed queries; packed pairs of bf16 are as they came, since a product with the scale would
/// round.
inline double score_scale(const Attention& a, const MicroKernel* kernel) {
  return kernel ? double(float(a.scale)) : 1.0;
}
/// What is left of it for the softmax: transform_scores(), where it runs, sees to the scale.
inline double softmax_scale(const Attention& a, const MicroKernel* kernel) {
  return transforms_scores(a) ? 1.0 : score_scale(a, kernel);
}

constexpr int64_t pad_of(const MicroKernel* kernel) { return kernel ? kBf16Pad : kPad; }

/// Keys [dim, kTile] and values [kTile, padded_value_dim] of the tiles of some key and value heads
/// from `first_tile` on, counted over the batch: in acc_dtype, or as B operands of `kernel`.
struct ForwardPack {
  Sizes sizes;
  const MicroKernel* kernel = nullptr;
  int64_t first_tile = 0;
  PackedTiles k = {}, v = {};
  bool* v_finite = nullptr;  // whether the values of a tile are

  double score_scale(const Attention& a) const { return attention::score_scale(a, kernel); }
  double softmax_scale(const Attention& a) const { return attention::softmax_scale(a, kernel); }
};

/// What the passes of the backward share.
struct BackwardPack {
  Sizes sizes;
  const MicroKernel* kernel =
      nullptr;  // what multiplies pairs of bf16; null: operands are in acc_dtype
  // Which tiles are packed, counted over the batch: those of some key and value heads.
  int64_t first_query_tile = 0, query_tiles = 0, first_key_tile = 0, key_tiles = 0;
  // By (batch row, head, tile of queries). In acc_dtype: queries times scale [kTile, padded_dim]
  // and dy [kTile, padded_value_dim]. For the microkernel: A operands of queries and dy, and of
  // both transposed, [head size, kTile].
  PackedTiles q = {}, dy = {}, q_t = {}, dy_t = {};
  // By the same, in acc_dtype, [kTile]: row_max; row_log_sum as a base-2 logarithm (infinity where
  // nothing is attended); Σ y · dy.
  void *row_max = nullptr, *row_log_sum = nullptr, *delta = nullptr;
  // By (batch row, key and value head, tile of keys): keys [kTile, padded_dim] and transposed
  // [dim, kTile], values transposed [value_dim, kTile]. For the microkernel: B operands of the
  // same.
  PackedTiles k = {}, k_t = {}, v_t = {};
  // Whether the tiles of q, dy and k are finite.
  bool *q_finite = nullptr, *dy_finite = nullptr, *k_finite = nullptr;
  // Partial dq of each chunk of keys, [kTile, padded_dim] by tiles of queries.
  void* dq = nullptr;
  int64_t chunks = 1, chunk_tiles = 1;

  double score_scale(const Attention& a) const { return attention::score_scale(a, kernel); }
  double softmax_scale(const Attention& a) const { return attention::softmax_scale(a, kernel); }
  int64_t query_tile(const Attention& a, const Place& p) const {
    return (p.b * a.heads + p.h) * sizes.query_tiles + p.i0 / kTile - first_query_tile;
  }
  int64_t key_tile(const Attention& a, const Place& p) const {
    return (p.b * a.kv_heads + p.h / sizes.group) * sizes.key_tiles + p.j0 / kTile - first_key_tile;
  }
};

/// dmask, from what the other gradients were made of.
void mask_gradient(const FlashAttentionBackward& f, const BackwardPack& pack);

}  // namespace olm::kernels::attention
