#pragma once
// Errors of the CUDA runtime become exceptions.
#include <cuda_runtime.h>

#include <olm/kernels/base/error.h>

namespace olm::kernels {

/// Throws the runtime's sentence unless `status` is success; `what` says what was being done.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // an error that is not sticky is told once
  fail("cuda: ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

}  // namespace olm::kernels

#define OLM_CUDA_CHECK(call) ::olm::kernels::check_cuda(call, #call)
