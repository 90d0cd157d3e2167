#pragma once
// Which instruction set the kernels under test run on.
#include <functional>
#include <string>

namespace olm::test {

/// Lets kernels run on this instruction set alone: "SSE4", "AVX2" or "AVX-512". False where the
/// build or the machine lacks it; an unknown name throws.
bool force_target(const std::string& name);

/// Runs `body` once for each instruction set that build and machine have, or for the forced one
/// alone, and restores the choice.
void for_each_target(const std::function<void(const std::string& name)>& body);

}  // namespace olm::test
