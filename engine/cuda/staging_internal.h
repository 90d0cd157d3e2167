#pragma once
// Uploads from ordinary memory: through two pinned buffers by turns, so that the host fills one
// while the card reads the other, and may change its own memory at once.
#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <mutex>

namespace olm::cuda_backend {

class Staging {
 public:
  /// Queues a copy of host memory to the card on `stream`.
  void upload(void* to, const void* from, size_t bytes, cudaStream_t stream);

 private:
  static constexpr size_t kBytes = size_t(4) << 20;
  struct Buffer {
    void* data = nullptr;
    cudaEvent_t read = nullptr;  ///< the card has read it
  };
  Buffer& next_free();

  std::mutex mutex_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
};

}  // namespace olm::cuda_backend
