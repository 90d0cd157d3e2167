#pragma once
// What this machine has for CUDA, and what is missing.
#include <string>
#include <vector>

namespace olm::cuda_backend {

/// An NVIDIA card.
struct CardInfo {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  size_t memory = 0;         ///< bytes
};

/// Every card, also those that kernels of this build do not run on; none where there is no driver.
std::vector<CardInfo> cards();
/// Why card `index` cannot be used, without a full stop; empty where it can.
std::string why_not(int index);
/// The version of the driver, as 13.0, and of the runtime; empty where there is none.
std::string driver_version();
std::string runtime_version();

}  // namespace olm::cuda_backend
