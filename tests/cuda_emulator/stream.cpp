#include <tests/cuda_emulator/stream.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/fault.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/options.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/statistics.h>

namespace olm::cuda_emulator {
namespace {

struct Device {
  CUstream_st null_stream;
  cudaError_t failure = cudaSuccess;
};
// Never destroyed: streams may be used while static objects are destroyed.
std::array<Device, kMaxDeviceCount>& devices = *new std::array<Device, kMaxDeviceCount>;
std::vector<std::unique_ptr<CUstream_st>>& streams = *new std::vector<std::unique_ptr<CUstream_st>>;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<CUstream_st*> streams_of(int device) {
  std::vector<CUstream_st*> all{&devices[size_t(device)].null_stream};
  for (const auto& stream : streams)
    if (stream->device == device) all.push_back(stream.get());
  return all;
}

void run_launch(int device, const LaunchWork& work) {
  if (work.fails) {
    set_last_failure("a launch fails because OLM_CUDA_EMULATOR asks for it");
    return fail_device(device, cudaErrorLaunchFailure);
  }
  const int64_t before = count_reports();
  {
    const FaultHandler handler;
    run_grid({.kernel = work.kernel,
              .call = work.call.get(),
              .blocks = work.config.gridDim,
              .threads = work.config.blockDim,
              .shared = work.config.dynamicSmemBytes,
              .device = device});
  }
  if (count_reports() != before) fail_device(device, cudaErrorLaunchFailure);
}

void run_copy(const CopyWork& work) {
  const int from = device_of(work.from), to = device_of(work.to);
  const OpenDevice open_from(std::max(from, 0)), open_to(std::max(to, 0));
  std::memmove(work.to, work.staged ? work.staged.get() : work.from, work.bytes);
}

void perform(CUstream_st& stream, const Work& work) {
  if (const auto* launch = std::get_if<LaunchWork>(&work)) run_launch(stream.device, *launch);
  if (const auto* copy = std::get_if<CopyWork>(&work)) run_copy(*copy);
  if (const auto* fill = std::get_if<FillWork>(&work))
    std::memset(fill->memory, fill->value, fill->bytes);
  if (const auto* host = std::get_if<HostWork>(&work)) host->run();
  if (const auto* wait = std::get_if<WaitWork>(&work)) run_to(wait->mark);
  if (const auto* reached = std::get_if<MarkWork>(&work)) {
    reached->mark->reached = true;
    reached->mark->seconds = now();
  }
}

using RankWorkPointer = std::shared_ptr<RankWork>;

/// Waits a little for other ranks. Other streams that wait for them go on: a card works at all.
void let_ranks_come() {
  std::vector<CUstream_st*> all;
  for (const auto& stream : streams) all.push_back(stream.get());
  for (CUstream_st* stream : all)
    if (!stream->queue.empty())
      if (const auto* ranks = std::get_if<RankWorkPointer>(&stream->queue.front()))
        RankWorkPointer(*ranks)->step();
  api_mutex().unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  api_mutex().lock();
}

/// Work of other streams of the device may come before what is waited for.
void run_others_by_chance(CUstream_st& stream) {
  if (options().seed == 0) return;
  for (CUstream_st* other : streams_of(stream.device))
    for (uint64_t pieces = other == &stream ? 0 : draw(other->queue.size() + 1); pieces > 0;
         --pieces)
      run_piece(*other);
}

}  // namespace

std::mutex& api_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

CUstream_st* find_stream(cudaStream_t handle, int device) {
  if (!handle) {
    devices[size_t(device)].null_stream.device = device;
    return &devices[size_t(device)].null_stream;
  }
  const auto found = std::find_if(streams.begin(), streams.end(),
                                  [&](const auto& stream) { return stream.get() == handle; });
  return found == streams.end() ? nullptr : handle;
}

/// The runtime ends with the process, and what is queued with it, in the order in which such ends
/// were asked for.
void end_with_process() {
  static const int registered = std::atexit([] {
    std::lock_guard lock(api_mutex());
    for (int d = 0; d < kMaxDeviceCount; ++d) fail_device(d, cudaErrorCudartUnloading);
  });
  (void)registered;
}

CUstream_st* make_stream(int device, bool blocking) {
  end_with_process();
  streams.push_back(std::make_unique<CUstream_st>());
  streams.back()->device = device;
  streams.back()->blocking = blocking;
  return streams.back().get();
}

void destroy_stream(CUstream_st* stream) {
  run_stream(*stream);
  std::erase_if(streams, [&](const auto& each) { return each.get() == stream; });
}

/// Queues what the null stream's rules order before new work of a stream.
void enqueue_order(CUstream_st& stream) {
  CUstream_st& null_stream = devices[size_t(stream.device)].null_stream;
  if (&stream == &null_stream) {
    for (CUstream_st* other : streams_of(stream.device))
      if (other != &stream && other->blocking && !other->queue.empty())
        stream.queue.push_back(WaitWork{record(*other)});
  } else if (stream.blocking && !null_stream.queue.empty()) {
    auto mark = std::make_shared<Mark>();
    mark->stream = &null_stream;
    null_stream.queue.push_back(MarkWork{mark});
    stream.queue.push_back(WaitWork{mark});
  }
}

void enqueue(CUstream_st& stream, Work work) {
  enqueue_order(stream);
  stream.queue.push_back(std::move(work));
  if (options().eager) run_stream(stream);
}

void enqueue_for_ranks(CUstream_st& stream, std::shared_ptr<RankWork> work) {
  enqueue_order(stream);
  stream.queue.push_back(std::move(work));
}

std::shared_ptr<Mark> record(CUstream_st& stream) {
  auto mark = std::make_shared<Mark>();
  mark->stream = &stream;
  stream.queue.push_back(MarkWork{mark});
  if (options().eager) run_stream(stream);
  return mark;
}

bool run_piece(CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  const OpenDevice open(stream.device);
  if (const auto* ranks = std::get_if<RankWorkPointer>(&stream.queue.front())) {
    if (RankWorkPointer(*ranks)->step())
      stream.queue.pop_front();
    else
      let_ranks_come();
    return true;
  }
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  perform(stream, work);
  return true;
}

void run_stream(CUstream_st& stream) {
  if (stream.queue.empty()) return;
  run_others_by_chance(stream);
  const OpenDevice open(stream.device);
  while (run_piece(stream)) {}
}

void run_to(const std::shared_ptr<Mark>& mark) {
  if (mark->reached) return;
  const OpenDevice open(mark->stream->device);
  while (!mark->reached && run_piece(*mark->stream)) {}
}

void run_device(int device) {
  const OpenDevice open(device);
  std::vector<CUstream_st*> all = streams_of(device);
  while (!all.empty()) {
    const size_t i = options().seed == 0 ? 0 : draw(all.size());
    if (!run_piece(*all[i])) all.erase(all.begin() + std::ptrdiff_t(i));
  }
}

void run_null_stream(int device) {
  const OpenDevice open(device);
  for (CUstream_st* stream : streams_of(device))
    if (stream->blocking) run_stream(*stream);
}

cudaError_t device_failure(int device) { return devices[size_t(device)].failure; }

void fail_device(int device, cudaError_t error) {
  devices[size_t(device)].failure = error;
  for (CUstream_st* stream : streams_of(device)) {
    for (const Work& work : stream->queue)
      if (const auto* mark = std::get_if<MarkWork>(&work)) mark->mark->reached = true;
    stream->queue.clear();
  }
}

void heal_devices() {
  for (int d = 0; d < kMaxDeviceCount; ++d) {
    fail_device(d, cudaSuccess);
    devices[size_t(d)].failure = cudaSuccess;
  }
}

}  // namespace olm::cuda_emulator
