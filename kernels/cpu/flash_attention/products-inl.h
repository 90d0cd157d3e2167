// The concept TileProducts: the GEMMs of one tile of attention, which forward.cpp, backward.cpp and
// mask_gradient.cpp are written over. Two implementations: products_acc-inl.h widens operands to
// acc_dtype and multiplies them with vectors; products_bf16-inl.h multiplies pairs of bf16 with the
// microkernel of the CPU's GEMM. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_INL_H_
#endif

#include <concepts>

#include <olm/kernels/cpu/flash_attention/gradient-inl.h>
#include <olm/kernels/cpu/flash_attention/nonfinite-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::rows_of;

/// Forward. An object holds the packed queries of one tile; K and V are packed by pack_tile(), tile
/// number `index` of (batch row, key and value head, tile of keys).
///   scores       S = Q Kᵀ inside the mask, [kTile, kTile], to be multiplied by score_scale()
///   add_values   acc += P V inside the mask, [kTile, padded_value_dim]; P may be overwritten
///   kRoundsP     true where P is rounded to bf16 before it is multiplied
template <class X>
concept ForwardTileProducts = requires(X x, const FlashAttentionForward& f, const ForwardPack& pack,
                                       const Place& p, const TileMask& mask, int64_t tile,
                                       typename X::A* matrix) {
  X(f, pack);
  X::pack_tile(f, pack, tile);
  x.pack_queries(p);
  x.scores(tile, mask, matrix);
  x.add_values(p, tile, mask, matrix, matrix);
  { X::kRoundsP } -> std::convertible_to<bool>;
};

/// Backward. Both operands of every GEMM are packed before; `query` and `key` number their tiles.
///   scores       S as above
///   dP           dP = dO Vᵀ inside the mask
///   add          dQ += dS K, dK += dSᵀ Q, dV += Pᵀ dO inside the mask; P, dS may be overwritten
///   write_keys   writes sums of dK or dV out: how they lie is the implementation's business
///   key_scale    what sums of dK are still to be multiplied by
template <class X>
concept BackwardTileProducts = requires(const X x, const FlashAttentionBackward& f,
                                        const BackwardPack& pack, const Place& p,
                                        const TileMask& mask, int64_t query, int64_t key,
                                        typename X::A* matrix, GradientTile<typename X::A> tile,
                                        typename X::T* to) {
  X(f, pack);
  X::pack_queries(f, pack, p, query);
  X::pack_keys(f, pack, p, key);
  x.scores(query, key, mask, matrix);
  x.dP(query, key, mask, matrix);
  x.add(p, query, key, mask, tile, matrix, matrix, matrix);
  { x.key_scale() } -> std::same_as<typename X::A>;
  x.write_keys(matrix, query, x.key_scale(), key, to, key);
};

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
