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

/// What scores as they are kept are to be multiplied by: `unit` leaves the scale to whoever reads
/// them, which is transform_scores() where that runs.
inline double score_unit(const Attention& a, const Unit* unit) {
  return unit && !transforms_scores(a) ? double(float(a.scale)) : 1.0;
}

constexpr int64_t pad_of(const Unit* unit) { return unit ? kPairPad : kPad; }

/// Keys [dim, kTile] and values [kTile, padded_value_dim] of the tiles of some key and value heads
/// from `first_tile` on, counted over the batch: in acc_dtype, or as right operands of `unit`.
struct ForwardPack {
  Sizes sizes;
  const Unit* unit = nullptr;
  int64_t first_tile = 0;
  PackedTiles keys = {}, values = {};
  bool* finite = nullptr;  // whether the values of a tile are
};

/// What the passes of the backward share.
struct BackwardPack {
  Sizes sizes;
  const Unit* unit = nullptr;  // what multiplies pairs of bf16; null: operands are in acc_dtype
  // Which tiles are packed, counted over the batch: those of some key and value heads.
  int64_t first_query_tile = 0, query_tiles = 0, first_key_tile = 0, key_tiles = 0;
  // By (batch row, head, tile of queries). In acc_dtype: queries times scale [kTile, padded_dim]
  // and dy [kTile, padded_value_dim]. For the unit: left operands of queries and dy, and of both
  // turned, [head size, kTile].
  PackedTiles q = {}, dy = {}, q_turned = {}, dy_turned = {};
  // By the same, in acc_dtype, [kTile]: row_max; row_log_sum in units of log 2 (infinity where
  // nothing is attended); Σ y · dy.
  void *row_max = nullptr, *row_log_sum = nullptr, *delta = nullptr;
  // By (batch row, key and value head, tile of keys): keys [kTile, padded_dim] and turned
  // [dim, kTile], values turned [value_dim, kTile]. For the unit: right operands of the same.
  PackedTiles keys = {}, keys_turned = {}, values_turned = {};
  // Whether the tiles of q, dy and keys are finite.
  bool *q_finite = nullptr, *dy_finite = nullptr, *keys_finite = nullptr;
  // Partial dq of each chunk of keys, [kTile, padded_dim] by tiles of queries.
  void* dq = nullptr;
  int64_t chunks = 1, chunk_tiles = 1;

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
