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

/// What CPU kernels run on in this process, which is not all that the processor has.
struct CpuFeatures {
  InstructionSet vectors = InstructionSet::baseline;
  bool amx = false;          ///< bf16 is multiplied by AMX tiles
  bool avx512_bf16 = false;  ///< bf16 is multiplied by dot products of 512-bit vectors
};
/// Neither amx nor avx512_bf16: bf16 is widened to f32. The first call asks the system for the
/// permission to use AMX tiles, as the first GEMM in bf16 does.
OLM_API CpuFeatures cpu_features();

}  // namespace olm::kernels
