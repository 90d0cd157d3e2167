#pragma once
// Streams: queues of work that runs when something waits for it. The caller holds api_mutex().
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include <cuda_runtime.h>

namespace olm::cuda_emulator {

/// A point in a stream that events and other streams wait for.
struct Mark {
  CUstream_st* stream = nullptr;
  bool reached = false;
  double seconds = 0;  ///< of a steady clock, when it was reached
};

struct LaunchWork {
  cudaLaunchConfig_t config;
  const void* kernel;
  std::unique_ptr<const KernelCall> call;
  bool fails;
};
struct CopyWork {
  void* to;
  const void* from;
  size_t bytes;
  std::unique_ptr<char[]> staged;  ///< what pageable memory held when the copy was asked for
};
struct FillWork {
  void* memory;
  int value;
  size_t bytes;
};
struct HostWork {
  std::function<void()> run;
};
struct MarkWork {
  std::shared_ptr<Mark> mark;
};
struct WaitWork {
  std::shared_ptr<Mark> mark;
};
/// Work that waits for other ranks.
class RankWork {
 public:
  virtual ~RankWork() = default;
  /// Does what can be done now; true once all is. Called with api_mutex() held.
  virtual bool step() = 0;
};
using Work = std::variant<LaunchWork, CopyWork, FillWork, HostWork, MarkWork, WaitWork,
                          std::shared_ptr<RankWork>>;

}  // namespace olm::cuda_emulator

struct CUstream_st {
  int device = 0;
  bool blocking = true;  ///< the null stream waits for it, and it for the null stream
  std::deque<olm::cuda_emulator::Work> queue;
};
struct CUevent_st {
  int device = 0;
  bool timed = true;
  std::shared_ptr<olm::cuda_emulator::Mark> mark;  ///< the latest record; null: none
};

namespace olm::cuda_emulator {

std::mutex& api_mutex();

/// The stream a handle stands for; a null handle is the null stream of the device. Null: no such.
CUstream_st* find_stream(cudaStream_t handle, int device);
CUstream_st* make_stream(int device, bool blocking);
void destroy_stream(CUstream_st* stream);

/// Appends work, behind what the null stream's rules order before it.
void enqueue(CUstream_st& stream, Work work);
/// The same for work of ranks, which never runs before something waits for it.
void enqueue_for_ranks(CUstream_st& stream, std::shared_ptr<RankWork> work);
std::shared_ptr<Mark> record(CUstream_st& stream);

/// Runs the stream's work, all of it or up to a mark, and what it waits for.
void run_stream(CUstream_st& stream);
void run_to(const std::shared_ptr<Mark>& mark);
void run_device(int device);
/// Runs one piece of work; false if there was none. Where that waits for other ranks it does what
/// can be done now, and lets other threads call for a moment.
bool run_piece(CUstream_st& stream);
/// As run_stream for a host that waits for the null stream and what that waits for.
void run_null_stream(int device);

/// The error that all later calls about a device return; cudaSuccess while it is well.
cudaError_t device_failure(int device);
void fail_device(int device, cudaError_t error);
void heal_devices();

}  // namespace olm::cuda_emulator
