#pragma once
#include <tests/cuda_emulator/emulator.h>

namespace olm::cuda_emulator {

/// What statistics() returns.
extern Statistics counts;

}  // namespace olm::cuda_emulator
