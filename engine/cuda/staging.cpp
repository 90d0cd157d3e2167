#include <olm/engine/cuda/staging_internal.h>

#include <algorithm>
#include <cstring>

#include <olm/kernels/cuda/check.cuh>

namespace olm::cuda_backend {

/// The buffer that was used longest ago, once the card has read it.
Staging::Buffer& Staging::next_free() {
  Buffer& buffer = buffers_[next_++ % buffers_.size()];
  if (buffer.data) {
    OLM_CUDA_CHECK(cudaEventSynchronize(buffer.read));
  } else {
    OLM_CUDA_CHECK(cudaEventCreateWithFlags(&buffer.read, cudaEventDisableTiming));
    OLM_CUDA_CHECK(cudaHostAlloc(&buffer.data, kBytes, cudaHostAllocDefault));
  }
  return buffer;
}

void Staging::upload(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  std::lock_guard lock(mutex_);
  for (size_t done = 0; done < bytes; done += kBytes) {
    const size_t part = std::min(kBytes, bytes - done);
    Buffer& buffer = next_free();
    std::memcpy(buffer.data, static_cast<const char*>(from) + done, part);
    OLM_CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + done, buffer.data, part,
                                   cudaMemcpyHostToDevice, stream));
    OLM_CUDA_CHECK(cudaEventRecord(buffer.read, stream));
  }
}

}  // namespace olm::cuda_backend
