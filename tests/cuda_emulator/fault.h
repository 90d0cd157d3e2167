#pragma once
#include <csignal>

namespace olm::cuda_emulator {

/// While it lives, a kernel's access to memory that cannot be accessed becomes a report. Elsewhere
/// such an access has its usual end.
class FaultHandler {
 public:
  FaultHandler();
  ~FaultHandler();
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

 private:
  struct sigaction segmentation_ = {}, bus_ = {};
  stack_t stack_ = {};
};

}  // namespace olm::cuda_emulator
