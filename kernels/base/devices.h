#pragma once
// Tags of the devices that kernels are written for.
#include <olm/kernels/base/error.h>
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// A kernel is a struct of arguments plus one `run(tag, call)` overload per device, both declared
/// in its contract; an overload that is declared but not written is a link error.
struct Cpu {};
struct Cuda {};

}  // namespace olm::kernels
