#pragma once
// Instructions for bf16 beside the instruction sets.

namespace olm::kernels {

/// True where the processor has AVX512_BF16: products of pairs of bf16, and rounding to it.
bool has_avx512_bf16();
/// The same for inner loops; false until the program's static objects are made.
extern const bool kRoundsToBf16;

}  // namespace olm::kernels
