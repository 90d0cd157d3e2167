#pragma once
// A communicator of NCCL that never blocks: what takes long is asked for again and again, so that a
// rank that died ends it. A thread of the process watches over all of them.
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/cuda/nccl_internal.h>

namespace olm::cuda_backend {

/// Why an operation of this name that began so many seconds ago, or 0 for none, will not end on the
/// other ranks; null where it will.
using OtherFailure = std::function<std::exception_ptr(const char* operation, double seconds)>;

class Communicator {
 public:
  /// Collective, with the calling thread's card. `idle` tells whether all that was issued has run.
  /// Throws CommError.
  Communicator(int rank, int size, const nccl::UniqueId& id, int card, OtherFailure others,
               std::function<bool()> idle);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Calls of NCCL that belong together. Returns when all are on their streams.
  void issue(const char* operation, const std::function<nccl::Status(nccl::Handle)>& calls);
  /// Throws what ended this communicator.
  void check();
  /// Looks for what has gone wrong, here and on other ranks, and ends all operations if something
  /// has: kernels that wait for others return.
  void look();
  /// Whether all that was issued has run, or will not.
  bool has_ended();
  int card() const { return card_; }

 private:
  void wait_until_ready();
  void require_success(nccl::Status status);
  double seconds_under_way();
  void fail_with(std::exception_ptr failure);
  void close() noexcept;

  const nccl::Functions& nccl_;
  const int card_;
  const OtherFailure others_;
  const std::function<bool()> idle_;
  std::mutex mutex_;
  nccl::Handle handle_ = nullptr;
  std::exception_ptr failure_;
  const char* operation_ = "ranks on cuda";  ///< the latest, and when it began
  dist::detail::Waiting since_;
};

/// Throws what ended a communicator of the card: what it computed since is worthless.
void check_communicators(int card);
/// Returns when all that this process has issued has run, or will not: others may wait for it.
void end_communicators() noexcept;

}  // namespace olm::cuda_backend
