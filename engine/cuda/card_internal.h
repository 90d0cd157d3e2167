#pragma once
// One NVIDIA card as the engine uses it: a stream, an allocator, and the place where kernels report
// a bad index.
#include <cuda_runtime.h>

#include <mutex>
#include <string>

#include <olm/engine/caching_allocator_internal.h>
#include <olm/engine/cuda/staging_internal.h>
#include <olm/kernels/base/fault.h>

namespace olm::cuda_backend {

class CardAllocator final : public CachingAllocator {
 public:
  explicit CardAllocator(int index);

 private:
  void* system_memory(size_t bytes) override;
  void release_system_memory(void* p, size_t bytes) noexcept override;
  std::string describe_system() const override;
  int index_;
};

class Card {
 public:
  /// Throws one sentence where the card cannot be used.
  explicit Card(int index);
  CardAllocator& allocator() { return allocator_; }
  Staging& staging() { return staging_; }
  kernels::Stream stream();
  /// Waits for the stream, then throws what a kernel reported.
  void synchronize();
  /// Makes this card the one that the calling thread's CUDA calls are about.
  void use() const;

 private:
  int index_;
  CardAllocator allocator_;
  Staging staging_;
  cudaStream_t stream_ = nullptr;
  kernels::DeviceFault* fault_ = nullptr;          // pinned host memory
  kernels::DeviceFault* fault_on_card_ = nullptr;  // where the card sees it
  std::mutex mutex_;
};

/// The card `index`, opened at its first use.
Card& card(int index);

}  // namespace olm::cuda_backend
