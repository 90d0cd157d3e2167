#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/instruction_set.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/base/instruction_set.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

InstructionSet compiled_for() {
#if HWY_ARCH_X86
  return HWY_TARGET <= HWY_AVX3   ? InstructionSet::avx512
         : HWY_TARGET <= HWY_AVX2 ? InstructionSet::avx2
                                  : InstructionSet::sse4;
#else
  return InstructionSet::baseline;
#endif
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <olm/kernels/cpu/bf16_instructions.h>
#include <olm/kernels/gemm.h>

#include <string_view>
#if HWY_ARCH_X86
#include <cpuid.h>
#endif

namespace olm::kernels {
HWY_EXPORT(compiled_for);

bool has_avx512_bf16() {
#if HWY_ARCH_X86
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && ((a >> 5) & 1);
  }();
  return has;
#else
  return false;
#endif
}
const bool kRoundsToBf16 = has_avx512_bf16();

InstructionSet instruction_set() { return HWY_DYNAMIC_DISPATCH(compiled_for)(); }

CpuFeatures cpu_features() {
  const std::string_view bf16_gemm = gemm_kernels(bf16);
  return {.vectors = instruction_set(),
          .amx = bf16_gemm == "AMX",
          .avx512_bf16 = bf16_gemm == "AVX-512 BF16"};
}

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::baseline:
      return "baseline";
    case InstructionSet::sse4:
      return "SSE4";
    case InstructionSet::avx2:
      return "AVX2";
    case InstructionSet::avx512:
      return "AVX-512";
  }
  return "unknown";
}

}  // namespace olm::kernels
#endif
