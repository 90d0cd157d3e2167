#pragma once
// What the passes of attention's backward share: operands packed by tiles.
#include <olm/kernels/cpu/flash_attention/run.h>

namespace olm::kernels::attention {

struct BackwardPack {
  Sizes sizes;
  const Unit* unit = nullptr;  // what multiplies pairs of bf16; null: operands are in acc_dtype
  // Which tiles are packed, counted over the batch: those of some key and value heads.
  int64_t first_query_tile = 0, query_tiles = 0, first_key_tile = 0, key_tiles = 0;
  // By (batch row, head, tile of queries). In acc_dtype: queries times scale [kTile, padded_dim]
  // and dy [kTile, padded_value_dim]. For the unit: left operands of queries and dy, and of both
  // turned, [head size, kTile].
  PackedTiles q = {}, dy = {}, q_turned = {}, dy_turned = {};
  // By the same, in acc_dtype: logsumexp in units of log 2 (infinity where nothing is attended) and
  // Σ y · dy, both [kTile].
  void *logsumexp = nullptr, *delta = nullptr;
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
