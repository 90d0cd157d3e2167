// The CUDA runtime's functions for the host: devices, errors, streams, events, launches. Memory is
// in runtime_memory.cpp.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include <tests/cuda_emulator/api_call.h>
#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/statistics.h>

namespace olm::cuda_emulator {

constinit thread_local int current_device = 0;
constinit thread_local cudaError_t last_error = cudaSuccess;

namespace {

/// Dynamic shared memory that kernels may have beyond 48 KB.
std::unordered_map<const void*, size_t>& shared_limits =
    *new std::unordered_map<const void*, size_t>;
constexpr size_t kDefaultShared = 48 << 10;

size_t shared_limit(const void* kernel) {
  const auto found = shared_limits.find(kernel);
  return found == shared_limits.end() ? kDefaultShared : std::max(found->second, kDefaultShared);
}

std::vector<std::unique_ptr<CUevent_st>>& events = *new std::vector<std::unique_ptr<CUevent_st>>;

bool is_event(cudaEvent_t handle) {
  return std::any_of(events.begin(), events.end(),
                     [&](const auto& event) { return event.get() == handle; });
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 g = config.gridDim, b = config.blockDim;
  const uint64_t threads = uint64_t(b.x) * b.y * b.z;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (threads == 0 || threads > uint64_t(kMaxThreads) || b.z > 64)
    return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > shared_limit(kernel)) return cudaErrorInvalidValue;
  if (options().old_card) return cudaErrorNoKernelImageForDevice;
  return cudaSuccess;
}

/// sm_86 and sm_89 have less shared memory than the emulated card.
void check_portable(const cudaLaunchConfig_t& config, const void* kernel) {
  if (config.dynamicSmemBytes <= kPortableShared) return;
  report("shared memory", [&] {
    return "kernel " + function_name(kernel) + " asks for " +
           std::to_string(config.dynamicSmemBytes) + " bytes of shared memory; every card has " +
           std::to_string(kPortableShared);
  });
  fail_device(current_device, cudaErrorLaunchFailure);
}

}  // namespace

cudaError_t refusal() {
  if (!options_problem().empty()) {
    set_last_failure(options_problem());
    return cudaErrorInitializationError;
  }
  if (options().no_driver) return cudaErrorInsufficientDriver;
  if (options().no_card) return cudaErrorNoDevice;
  if (options().lost == 0) return cudaErrorDevicesUnavailable;
  if (options().lost > 0) --options().lost;
  return cudaSuccess;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, const void* kernel,
                           std::unique_ptr<const KernelCall> call) {
  return api_call([&]() -> cudaError_t {
    CUstream_st* stream = find_stream(config.stream, current_device);
    if (!stream || stream->device != current_device) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = check_launch(config, kernel); error != cudaSuccess) return error;
    check_portable(config, kernel);
    if (device_failure(current_device) != cudaSuccess) return device_failure(current_device);
    const bool fails = options().fail_launch > 0 && --options().fail_launch == 0;
    enqueue(*stream, LaunchWork{config, kernel, std::move(call), fails});
    return cudaSuccess;
  });
}

}  // namespace olm::cuda_emulator

using namespace olm::cuda_emulator;

// ---- devices ------------------------------------------------------------------------------------
cudaError_t cudaGetDeviceCount(int* count) {
  return api_query([&] {
    *count = options().devices;
    return cudaSuccess;
  });
}
cudaError_t cudaGetDevice(int* device) {
  return api_query([&] {
    *device = current_device;
    return cudaSuccess;
  });
}
cudaError_t cudaSetDevice(int device) {
  return api_query([&] {
    if (device < 0 || device >= options().devices) return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
  });
}
cudaError_t cudaSetDeviceFlags(unsigned) {
  return api_query([] { return cudaSuccess; });
}
cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  return api_query(
      [&] { return device < options().devices ? cudaSuccess : cudaErrorInvalidDevice; });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return api_query([&] {
    if (device < 0 || device >= options().devices) return cudaErrorInvalidDevice;
    const bool old = options().old_card;
    cudaDeviceProp p = {};
    std::strcpy(p.name, old ? "emulated sm_75 card" : "emulated sm_80 card");
    p.major = old ? 7 : 8;
    p.minor = old ? 5 : 0;
    p.totalGlobalMem = options().memory;
    p.sharedMemPerBlock = kDefaultShared;
    p.sharedMemPerBlockOptin = kMaxShared;
    p.sharedMemPerMultiprocessor = kMaxShared + 1024;
    p.reservedSharedMemPerBlock = 1024;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = kWarp;
    p.maxThreadsPerBlock = kMaxThreads;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxBlocksPerMultiProcessor = 32;
    std::copy_n(std::begin({kMaxThreads, kMaxThreads, 64}), 3, p.maxThreadsDim);
    std::copy_n(std::begin({0x7fffffff, 65535, 65535}), 3, p.maxGridSize);
    p.totalConstMem = 65536;
    p.multiProcessorCount = 4;
    p.canMapHostMemory = p.unifiedAddressing = p.concurrentKernels = 1;
    p.asyncEngineCount = 2;
    p.memoryBusWidth = 5120;
    p.l2CacheSize = 40 << 20;
    p.pciBusID = device + 1;
    *properties = p;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p = {};
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device); error != cudaSuccess)
    return error;
  const std::unordered_map<int, int> values = {
      {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
      {cudaDevAttrMaxSharedMemoryPerBlock, int(p.sharedMemPerBlock)},
      {cudaDevAttrWarpSize, p.warpSize},
      {cudaDevAttrClockRate, 1000000},
      {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
      {cudaDevAttrMemoryClockRate, 1000000},
      {cudaDevAttrGlobalMemoryBusWidth, p.memoryBusWidth},
      {cudaDevAttrL2CacheSize, p.l2CacheSize},
      {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
      {cudaDevAttrComputeCapabilityMajor, p.major},
      {cudaDevAttrComputeCapabilityMinor, p.minor},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, int(p.sharedMemPerMultiprocessor)},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, int(p.sharedMemPerBlockOptin)},
  };
  const auto found = values.find(attribute);
  if (found == values.end()) return remember(cudaErrorInvalidValue);
  *value = found->second;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return api_call([] {
    counts.synchronizations += 1;
    run_device(current_device);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceReset() {
  return api_query([] {
    fail_device(current_device, cudaSuccess);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  return api_query([&] {
    *can = 0;
    return cudaSuccess;
  });
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = options().no_driver ? 0 : CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- streams ------------------------------------------------------------------------------------
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return api_call([&] {
    *stream = make_stream(current_device, flags != cudaStreamNonBlocking);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return with_stream(stream, [&](CUstream_st& found) {
    if (!stream) return cudaErrorInvalidResourceHandle;
    destroy_stream(&found);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return with_stream(stream, [&](CUstream_st& found) {
    counts.synchronizations += 1;
    if (stream)
      run_stream(found);
    else
      run_null_stream(found.device);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  // A host that polls makes progress, but never finds work done that nothing has waited for yet.
  return with_stream(stream, [](CUstream_st& found) {
    return run_piece(found) ? cudaErrorNotReady : cudaSuccess;
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return with_stream(stream, [&](CUstream_st& found) {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    if (event->mark && !event->mark->reached) enqueue(found, WaitWork{event->mark});
    return cudaSuccess;
  });
}

// ---- events -------------------------------------------------------------------------------------
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api_call([&] {
    events.push_back(std::make_unique<CUevent_st>());
    events.back()->device = current_device;
    events.back()->timed = !(flags & cudaEventDisableTiming);
    *event = events.back().get();
    return cudaSuccess;
  });
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api_call([&] {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    std::erase_if(events, [&](const auto& each) { return each.get() == event; });
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return with_stream(stream, [&](CUstream_st& found) {
    if (!is_event(event) || event->device != found.device) return cudaErrorInvalidResourceHandle;
    event->mark = record(found);
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api_call([&] {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    counts.synchronizations += 1;
    if (event->mark) run_to(event->mark);
    return cudaSuccess;
  });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api_call([&] {
    if (!is_event(event)) return cudaErrorInvalidResourceHandle;
    if (!event->mark || event->mark->reached) return cudaSuccess;
    run_piece(*event->mark->stream);
    return cudaErrorNotReady;
  });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api_call([&] {
    for (cudaEvent_t event : {start, end})
      if (!is_event(event) || !event->mark || !event->timed) return cudaErrorInvalidResourceHandle;
    if (!start->mark->reached || !end->mark->reached) return cudaErrorNotReady;
    *milliseconds = float((end->mark->seconds - start->mark->seconds) * 1e3);
    return cudaSuccess;
  });
}

// ---- kernels ------------------------------------------------------------------------------------
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return api_call([&] {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || size_t(value) > kMaxShared) return cudaErrorInvalidValue;
    shared_limits[kernel] = size_t(value);
    return cudaSuccess;
  });
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return api_call([&] {
    *attributes = {};
    attributes->maxThreadsPerBlock = kMaxThreads;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = 80;
    attributes->maxDynamicSharedSizeBytes = int(shared_limit(kernel));
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_size,
                                                          size_t shared_bytes) {
  return api_call([&] {
    if (block_size <= 0 || block_size > kMaxThreads) return cudaErrorInvalidValue;
    const int by_threads = 2048 / block_size;
    const int by_shared = int((kMaxShared + 1024) / (shared_bytes + 1024));
    *blocks = std::min({by_threads, by_shared, 32});
    return cudaSuccess;
  });
}
