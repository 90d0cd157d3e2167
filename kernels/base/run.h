#pragma once
// Dispatch: the table of kernels is an overload set. For what calls kernels; contracts need the
// tags alone, so that no other source depends on which devices a build has.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Runs `call` on a device.
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
