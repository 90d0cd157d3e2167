#pragma once
// What every function of the runtime does first: one lock for all, and the states in which nothing
// works.
#include <mutex>

#include <tests/cuda_emulator/options.h>
#include <tests/cuda_emulator/stream.h>

namespace olm::cuda_emulator {

extern constinit thread_local int current_device;
extern constinit thread_local cudaError_t last_error;

/// Why no call can be served; cudaSuccess where it can.
cudaError_t refusal();
/// Keeps an error for cudaGetLastError and returns it.
cudaError_t remember(cudaError_t error);

/// A call that works on a device that has failed, too.
template <class F>
cudaError_t api_query(F&& body) {
  std::lock_guard lock(api_mutex());
  const cudaError_t refused = refusal();
  return remember(refused != cudaSuccess ? refused : body());
}

/// A call about the current device; what its work shows on the way is its error too.
template <class F>
cudaError_t api_call(F&& body) {
  return api_query([&]() -> cudaError_t {
    if (device_failure(current_device) != cudaSuccess) return device_failure(current_device);
    const cudaError_t error = body();
    return device_failure(current_device) != cudaSuccess ? device_failure(current_device) : error;
  });
}

template <class F>
cudaError_t with_stream(cudaStream_t handle, F&& body) {
  return api_call([&]() -> cudaError_t {
    CUstream_st* stream = find_stream(handle, current_device);
    return stream ? body(*stream) : cudaErrorInvalidResourceHandle;
  });
}

}  // namespace olm::cuda_emulator
