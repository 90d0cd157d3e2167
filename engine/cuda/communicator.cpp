#include <olm/engine/cuda/communicator_internal.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <thread>
#include <utility>
#include <vector>

#include <olm/engine/comm.h>

namespace olm::cuda_backend {
namespace {

using nccl::Status;
using Clock = std::chrono::steady_clock;

/// Looks at all communicators by turns as long as there are any.
class Watch {
 public:
  void add(Communicator* comm) {
    std::lock_guard lock(mutex_);
    all_.push_back(comm);
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    changed_.notify_all();
  }
  void remove(Communicator* comm) {
    std::lock_guard lock(mutex_);
    std::erase(all_, comm);
  }
  void check(int card) {
    std::lock_guard lock(mutex_);
    for (Communicator* comm : all_)
      if (comm->card() == card) comm->check();
  }
  /// False in a child that was forked: the thread, and whom the mutex is locked by, stayed behind.
  bool is_own_process() const { return getpid() == process_; }
  bool has_ended() {
    std::lock_guard lock(mutex_);
    return std::all_of(all_.begin(), all_.end(), [](Communicator* c) { return c->has_ended(); });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !all_.empty(); });
      for (Communicator* comm : all_) comm->look();
      changed_.wait_for(lock, std::chrono::milliseconds(50), [] { return false; });
    }
  }

  const pid_t process_ = getpid();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Communicator*> all_;
  std::thread thread_;
};

Watch& watch() {
  // Never destroyed: communicators may be used while static objects are destroyed.
  static Watch& only = *new Watch;
  return only;
}

}  // namespace

void check_communicators(int card) { watch().check(card); }

void end_communicators() noexcept {
  if (!watch().is_own_process()) return;
  try {
    while (!watch().has_ended()) std::this_thread::sleep_for(std::chrono::microseconds(100));
  } catch (const std::exception&) {  // no card can be asked any more
  }
}

Communicator::Communicator(int rank, int size, const nccl::UniqueId& id, int card,
                           OtherFailure others, std::function<bool()> idle)
    : nccl_(nccl::functions()), card_(card), others_(std::move(others)), idle_(std::move(idle)) {
  nccl::Config config;
  watch().add(this);
  try {
    {
      std::lock_guard lock(mutex_);
      require_success(nccl_.init_rank(&handle_, size, id, rank, &config));
    }
    wait_until_ready();
  } catch (...) {
    watch().remove(this);
    std::lock_guard lock(mutex_);
    if (handle_) nccl_.abort(handle_);
    throw;
  }
}

Communicator::~Communicator() {
  watch().remove(this);
  close();
}

/// Lets the others take what is on its way to them.
void Communicator::close() noexcept {
  if (!handle_) return;
  Status status = nccl_.finalize(handle_);
  const auto until = Clock::now() + std::chrono::seconds(10);
  while (status == Status::success || status == Status::in_progress) {
    if (nccl_.get_async_error(handle_, &status) != Status::success || Clock::now() > until) {
      status = Status::invalid_usage;
      break;
    }
    if (status == Status::success) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  status == Status::success ? nccl_.destroy(handle_) : nccl_.abort(handle_);
}

void Communicator::require_success(Status status) {
  if (status == Status::success || status == Status::in_progress) return;
  const std::string more = nccl_.get_last_error(handle_);
  throw dist::CommError(operation_, ": NCCL says: ", nccl_.get_error_string(status),
                        more.empty() ? "" : "; ", more);
}

void Communicator::wait_until_ready() {
  for (auto pause = std::chrono::microseconds(1);;
       pause = std::min(2 * pause, decltype(pause)(200))) {
    {
      std::lock_guard lock(mutex_);
      if (failure_) std::rethrow_exception(failure_);
      Status status = Status::in_progress;
      require_success(nccl_.get_async_error(handle_, &status));
      require_success(status);
      if (status == Status::success) return;
    }
    std::this_thread::sleep_for(pause);
  }
}

void Communicator::issue(const char* operation, const std::function<Status(nccl::Handle)>& calls) {
  {
    std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
    operation_ = operation;
    since_ = dist::detail::Waiting();
    require_success(nccl_.group_start());
    const Status status = calls(handle_);
    const Status end = nccl_.group_end();
    require_success(status);
    require_success(end);
  }
  wait_until_ready();
}

void Communicator::check() {
  std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

bool Communicator::has_ended() {
  std::lock_guard lock(mutex_);
  return failure_ || idle_();
}

void Communicator::fail_with(std::exception_ptr failure) {
  failure_ = std::move(failure);
  if (handle_) nccl_.abort(std::exchange(handle_, nullptr));
}

/// Of the latest operation; 0 where it has run, or is young.
double Communicator::seconds_under_way() {
  constexpr double kYoung = 1;
  const double seconds = since_.seconds();
  return seconds < kYoung || idle_() ? 0 : seconds;
}

void Communicator::look() {
  std::lock_guard lock(mutex_);
  if (failure_ || !handle_) return;
  try {
    if (std::exception_ptr failure = others_(operation_, seconds_under_way()))
      return fail_with(std::move(failure));
    Status status = Status::success;
    require_success(nccl_.get_async_error(handle_, &status));
    require_success(status);
  } catch (const std::exception&) {
    fail_with(std::current_exception());
  }
}

}  // namespace olm::cuda_backend
