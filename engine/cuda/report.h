#pragma once
// What this machine has for CUDA, and what is missing. `cards()` lists what cuda(i) can name.
#include <string>
#include <string_view>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm::cuda_backend {

/// An NVIDIA card.
struct CardInfo {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  size_t memory = 0;         ///< bytes
};

/// Every card, also those that kernels of this build do not run on; none where there is no driver.
OLM_API std::vector<CardInfo> cards();
/// Why card `index` cannot be used, without a full stop; empty where it can.
OLM_API std::string why_not(int index);
/// The version of the driver, as 13.0, and of the runtime; empty where there is none.
OLM_API std::string driver_version();
OLM_API std::string runtime_version();
/// What kernels were compiled for, as CMake names it; empty where the build has no CUDA.
OLM_API std::string compiled_architectures();
/// Whether a card of compute capability major.minor runs what was compiled for `architectures`:
/// machine code (`90-real`) of its generation that is not newer than it, or PTX (`80-virtual`) of
/// any that is not; `80` is both, and `90a` is for 9.0 alone. Words without a number, such as
/// `native`, are taken to fit.
OLM_API bool has_kernels_for(std::string_view architectures, int major, int minor);
/// The file of cuBLASLt, or where it was looked for in vain; empty where the build has no CUDA.
OLM_API std::string cublas_lt();
/// The same for NCCL, which ranks on cards need.
OLM_API std::string nccl_library();

}  // namespace olm::cuda_backend
