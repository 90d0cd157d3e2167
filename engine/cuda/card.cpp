#include <olm/engine/cuda/card_internal.h>

#include <map>
#include <memory>

#include <olm/engine/backend_internal.h>
#include <olm/engine/cuda/communicator_internal.h>
#include <olm/engine/cuda/report.h>
#include <olm/kernels/cuda/check.cuh>

namespace olm::cuda_backend {

CardAllocator::CardAllocator(int index)
    : CachingAllocator({.name = "cuda", .granule = 512}), index_(index) {}

void* CardAllocator::system_memory(size_t bytes) {
  OLM_CUDA_CHECK(cudaSetDevice(index_));
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  kernels::check_cuda(status, "cudaMalloc");
  return p;
}

void CardAllocator::release_system_memory(void* p, size_t) noexcept { cudaFree(p); }

std::string CardAllocator::describe_system() const {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
  return detail::concat(", ", free, " of ", total, " free on ", Device(cuda(index_)));
}

Card::Card(int index) : index_(index), allocator_(index) {
  const std::string problem = why_not(index);
  require(problem.empty(), "device: ", cuda(index), " asked for, but ", problem);
  use();
  OLM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  void* memory = nullptr;
  OLM_CUDA_CHECK(cudaHostAlloc(&memory, sizeof(kernels::DeviceFault), cudaHostAllocMapped));
  fault_ = new (memory) kernels::DeviceFault;
  OLM_CUDA_CHECK(cudaHostGetDevicePointer(&memory, fault_, 0));
  fault_on_card_ = static_cast<kernels::DeviceFault*>(memory);
}

void Card::use() const { OLM_CUDA_CHECK(cudaSetDevice(index_)); }

kernels::Stream Card::stream() {
  use();
  return {.native = stream_, .source = &allocator_, .fault = fault_on_card_};
}

void Card::synchronize() {
  use();
  OLM_CUDA_CHECK(cudaStreamSynchronize(stream_));
  check_communicators(index_);
  std::lock_guard lock(mutex_);
  if (!fault_->claimed) return;
  const kernels::DeviceFault fault = std::exchange(*fault_, {});
  kernels::fail_index(fault.op, fault.value, fault.position, fault.size);
}

Card& card(int index) {
  static std::mutex mutex;
  // Never destroyed: tensors in static storage may outlive any order of destruction.
  static auto& cards = *new std::map<int, std::unique_ptr<Card>>;
  std::lock_guard lock(mutex);
  std::unique_ptr<Card>& found = cards[index];
  if (!found) found = std::make_unique<Card>(index);
  return *found;
}

void require_card(int index) { card(index); }
Allocator& allocator(int index) { return card(index).allocator(); }
kernels::Stream stream(int index) { return card(index).stream(); }
void synchronize(int index) { card(index).synchronize(); }

void copy(void* to, Device to_device, const void* from, Device from_device, size_t bytes) {
  const bool leaves = from_device.kind == DeviceKind::cuda;
  const bool arrives = to_device.kind == DeviceKind::cuda;
  if (leaves && arrives) card(to_device.index).synchronize();  // its memory may still be in use
  Card& at = card(leaves ? from_device.index : to_device.index);
  const auto stream = static_cast<cudaStream_t>(at.stream().native);
  if (!leaves)
    at.staging().upload(to, from, bytes, stream);
  else if (bytes > 0)
    OLM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
  if (leaves) at.synchronize();
}

}  // namespace olm::cuda_backend
