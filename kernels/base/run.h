#pragma once
// Dispatch: the table of kernels is an overload set.
#include <olm/kernels/base/error.h>
#include <olm/kernels/base/types.h>

namespace olm::kernels {

struct Cpu {};
struct Cuda {};

/// Runs `call` on a device. A kernel is a struct of arguments plus one `run` overload per device,
/// both declared in its contract; an overload that is declared but not written is a link error.
template <class Call>
void run(DeviceKind where, const Call& call) {
  if (where == DeviceKind::meta) return;  // shapes only
  if (where == DeviceKind::cpu) return run(Cpu{}, call);
#if OLM_CUDA
  if (where == DeviceKind::cuda) return run(Cuda{}, call);
#endif
  throw Error(Call::name, ": this build has no ", where, " kernels");
}

}  // namespace olm::kernels
