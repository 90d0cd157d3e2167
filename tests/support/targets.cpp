#include <tests/support/targets.h>

#include <hwy/targets.h>

#include <olm/kernels/base/instruction_set.h>

namespace olm::test {
namespace {

using kernels::InstructionSet;

struct Target {
  InstructionSet set;
  int64_t bits;  // Highway's
};
constexpr Target kTargets[] = {
#if HWY_ARCH_X86
    {InstructionSet::sse4, HWY_SSE4},
    {InstructionSet::avx2, HWY_AVX2},
    {InstructionSet::avx512, HWY_AVX3},
#else
    {InstructionSet::baseline, HWY_STATIC_TARGET},
#endif
};
const Target* forced = nullptr;

/// True where kernels run on it now.
bool use(const Target& target) {
  hwy::SetSupportedTargetsForTest(0);
  if (!(hwy::SupportedTargets() & target.bits)) return false;
  hwy::SetSupportedTargetsForTest(target.bits);
  hwy::GetChosenTarget().Update(target.bits);
  return kernels::instruction_set() == target.set;
}

void use_widest() {
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace

bool force_target(const std::string& name) {
  std::string known;
  for (const Target& target : kTargets) {
    if (name == name_of(target.set)) {
      forced = &target;
      return use(target);
    }
    known += std::string(known.empty() ? "" : ", ") + name_of(target.set);
  }
  fail("no instruction set is called \"", name, "\"; there are ", known);
}

void for_each_target(const std::function<void(const std::string&)>& body) {
  for (const Target& target : kTargets)
    if ((!forced || forced == &target) && use(target)) body(name_of(target.set));
  if (!forced) use_widest();
}

}  // namespace olm::test
