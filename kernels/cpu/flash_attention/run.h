#pragma once
// Attention by a unit of the caller's choice.
#include <olm/kernels/cpu/flash_attention/pairs.h>

namespace olm::kernels::attention {

/// `unit`: what multiplies pairs of bf16, or null, where operands are widened to acc_dtype.
void run_forward(const FlashAttentionForward& f, const Unit* unit);
void run_backward(const FlashAttentionBackward& f, const Unit* unit);

/// Operands packed by tiles, each of so many bytes.
struct PackedTiles {
  char* data = nullptr;
  int64_t bytes = 0;
  template <class W>
  W* at(int64_t tile) const {
    return reinterpret_cast<W*>(data + tile * bytes);
  }
};

constexpr int64_t pad_of(const Unit* unit) { return unit ? kPairPad : kPad; }

}  // namespace olm::kernels::attention
