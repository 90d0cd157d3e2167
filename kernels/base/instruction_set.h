#pragma once
// Which instructions the vector code of CPU kernels runs on.
#include <cstdint>

#include <olm/kernels/base/error.h>

namespace olm::kernels {

/// Lowest first; `baseline` is what the compiler gives processors other than x86.
enum class InstructionSet : uint8_t { baseline, sse4, avx2, avx512 };
/// "SSE4", "AVX2", "AVX-512", "baseline".
OLM_API const char* name_of(InstructionSet set);
/// The widest one that both this build and this processor have.
OLM_API InstructionSet instruction_set();

}  // namespace olm::kernels
