// The CUDA runtime's functions for memory and errors, and those of emulator.h.
#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <string>

#include <tests/cuda_emulator/api_call.h>
#include <tests/cuda_emulator/emulator.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/statistics.h>

using namespace olm::cuda_emulator;

namespace olm::cuda_emulator {

Statistics counts;

namespace {

enum class Place { device, pinned, pageable };

Place place_of(const void* memory, size_t bytes) {
  if (device_of(memory) >= 0) return Place::device;
  return is_pinned(memory, bytes) ? Place::pinned : Place::pageable;
}

bool fits(cudaMemcpyKind kind, bool from_device, bool to_device) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !from_device && !to_device;
    case cudaMemcpyHostToDevice:
      return !from_device && to_device;
    case cudaMemcpyDeviceToHost:
      return from_device && !to_device;
    case cudaMemcpyDeviceToDevice:
      return from_device && to_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

void count_copy(bool from_device, bool to_device, size_t bytes) {
  if (from_device && to_device) {
    counts.device_to_device_copies += 1;
    counts.device_to_device_bytes += int64_t(bytes);
  } else if (to_device) {
    counts.host_to_device_copies += 1;
    counts.host_to_device_bytes += int64_t(bytes);
  } else if (from_device) {
    counts.device_to_host_copies += 1;
    counts.device_to_host_bytes += int64_t(bytes);
  }
}

/// Queues a copy. Pageable memory is read now; a copy to it is done on return.
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                 CUstream_st& stream) {
  const Place source = place_of(from, bytes), target = place_of(to, bytes);
  const bool from_device = source == Place::device, to_device = target == Place::device;
  if (!fits(kind, from_device, to_device)) return cudaErrorInvalidMemcpyDirection;
  if ((from_device && !is_allocated(from, bytes)) || (to_device && !is_allocated(to, bytes)))
    return cudaErrorInvalidValue;
  count_copy(from_device, to_device, bytes);
  CopyWork work{to, from, bytes, nullptr};
  if (source == Place::pageable) {
    work.staged = std::make_unique<char[]>(bytes);
    std::memcpy(work.staged.get(), from, bytes);
  }
  enqueue(stream, std::move(work));
  if (target == Place::pageable) {
    counts.synchronizations += 1;
    run_stream(stream);
  }
  return cudaSuccess;
}

cudaError_t fill(void* memory, int value, size_t bytes, CUstream_st& stream) {
  const Place place = place_of(memory, bytes);
  if (place == Place::pageable || (place == Place::device && !is_allocated(memory, bytes)))
    return cudaErrorInvalidValue;
  enqueue(stream, FillWork{memory, value, bytes});
  return cudaSuccess;
}

const char* plain_error_string(cudaError_t error);

}  // namespace
}  // namespace olm::cuda_emulator

// ---- memory -------------------------------------------------------------------------------------
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return api_call([&] {
    *memory = nullptr;
    if (bytes == 0) return cudaSuccess;
    *memory = allocate_device(current_device, bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}
cudaError_t cudaFree(void* memory) {
  return api_call([&] {
    if (!memory) return cudaSuccess;
    if (!is_allocated(memory, 1)) return cudaErrorInvalidValue;
    counts.synchronizations += 1;
    run_device(device_of(memory));
    return free_device(memory) ? cudaSuccess : cudaErrorInvalidValue;
  });
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  return api_call([&] {
    *memory = allocate_pinned(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}
cudaError_t cudaFreeHost(void* memory) {
  return api_call([&] {
    if (!memory) return cudaSuccess;
    for (int d = 0; d < options().devices; ++d) run_device(d);
    return free_pinned(memory) ? cudaSuccess : cudaErrorInvalidValue;
  });
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  return api_call([&] {
    if (!is_pinned(host, 1)) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
  });
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  return api_call([&] {
    auto* p = const_cast<void*>(memory);
    switch (place_of(memory, 1)) {
      case Place::device:
        *attributes = {cudaMemoryTypeDevice, device_of(memory), p, nullptr};
        break;
      case Place::pinned:
        *attributes = {cudaMemoryTypeHost, current_device, p, p};
        break;
      case Place::pageable:
        *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, p};
    }
    return cudaSuccess;
  });
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api_call([&] {
    *total = options().memory;
    const size_t used = device_bytes_in_use(current_device);
    *free = used < *total ? *total - used : 0;
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return with_stream(nullptr, [&](CUstream_st& stream) {
    if (bytes == 0) return cudaSuccess;
    const cudaError_t error = copy(to, from, bytes, kind, stream);
    if (error == cudaSuccess) run_null_stream(stream.device);
    return error;
  });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return with_stream(stream, [&](CUstream_st& found) {
    return bytes == 0 ? cudaSuccess : copy(to, from, bytes, kind, found);
  });
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  return cudaMemsetAsync(memory, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return with_stream(stream, [&](CUstream_st& found) {
    return bytes == 0 ? cudaSuccess : fill(memory, value, bytes, found);
  });
}

// ---- errors -------------------------------------------------------------------------------------
cudaError_t cudaPeekAtLastError() {
  std::lock_guard lock(api_mutex());
  const cudaError_t failure = device_failure(current_device);
  return failure != cudaSuccess ? failure : last_error;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

#define OLM_EMULATED_ERRORS(X)                                                                   \
  X(cudaSuccess, "no error")                                                                     \
  X(cudaErrorInvalidValue, "invalid argument")                                                   \
  X(cudaErrorMemoryAllocation, "out of memory")                                                  \
  X(cudaErrorInitializationError, "initialization error")                                        \
  X(cudaErrorCudartUnloading, "driver shutting down")                                            \
  X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
  X(cudaErrorInvalidDevicePointer, "invalid device pointer")                                     \
  X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                        \
  X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version") \
  X(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable")            \
  X(cudaErrorInvalidDeviceFunction, "invalid device function")                                   \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
  X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device") \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                   \
  X(cudaErrorNotReady, "device not ready")                                                       \
  X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                         \
  X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                    \
  X(cudaErrorMisalignedAddress, "misaligned address")                                            \
  X(cudaErrorLaunchFailure, "unspecified launch failure")                                        \
  X(cudaErrorNotSupported, "operation not supported")                                            \
  X(cudaErrorUnknown, "unknown error")

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define OLM_EMULATED_NAME(name, sentence) \
  case name:                              \
    return #name;
    OLM_EMULATED_ERRORS(OLM_EMULATED_NAME)
#undef OLM_EMULATED_NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const char* plain = plain_error_string(error);
  std::lock_guard lock(api_mutex());
  const bool explained = error == cudaErrorLaunchFailure || error == cudaErrorInitializationError;
  if (!explained || last_failure().empty()) return plain;
  thread_local std::string text;
  text = plain + (": " + last_failure());
  return text.c_str();
}

namespace olm::cuda_emulator {
namespace {

const char* plain_error_string(cudaError_t error) {
  switch (error) {
#define OLM_EMULATED_SENTENCE(name, sentence) \
  case name:                                  \
    return sentence;
    OLM_EMULATED_ERRORS(OLM_EMULATED_SENTENCE)
#undef OLM_EMULATED_SENTENCE
  }
  return "unrecognized error code";
}

}  // namespace

// ---- emulator.h ---------------------------------------------------------------------------------
Flavour flavour() {
#if OLM_EMULATOR_RACE
  return Flavour::race;
#elif defined(__SANITIZE_ADDRESS__)
  return Flavour::address;
#else
  return Flavour::plain;
#endif
}

std::vector<Report> reports() {
  std::lock_guard lock(api_mutex());
  return reports_so_far();
}

Statistics statistics() {
  std::lock_guard lock(api_mutex());
  return counts;
}

void clear_statistics() {
  std::lock_guard lock(api_mutex());
  counts = {};
}

void configure(std::string_view words) {
  const Options parsed = parse_options(words);
  std::lock_guard lock(api_mutex());
  set_options(parsed);
}

std::string configuration() {
  std::lock_guard lock(api_mutex());
  return options().words;
}

void reset() {
  std::lock_guard lock(api_mutex());
  forget_reports();
  heal_devices();
  last_error = cudaSuccess;
}

}  // namespace olm::cuda_emulator
