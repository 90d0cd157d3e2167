#pragma once
// Errors of the CUDA runtime become exceptions.
#include <cuda_runtime.h>

#include <string_view>

#include <olm/kernels/base/error.h>

namespace olm::kernels {

/// Throws the runtime's sentence unless `status` is success; `what` is the call as it stands in the
/// source, of which the sentence has the function.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // an error that is not sticky is told once
  fail("cuda: ", std::string_view(what).substr(0, std::string_view(what).find('(')), ": ",
       cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

}  // namespace olm::kernels

#define OLM_CUDA_CHECK(call) ::olm::kernels::check_cuda(call, #call)
