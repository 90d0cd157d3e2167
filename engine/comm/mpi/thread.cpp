#include <olm/engine/comm/mpi/thread_internal.h>

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace olm::dist::detail {
namespace {

using Seconds = std::chrono::duration<double>;

/// Looks without a nap while somebody waits: some milliseconds, or as long as cores are free.
constexpr int kSpins = 20000;
/// Where ranks wait for each other's cores a look takes the time of one that computes.
constexpr int kSpinsCrowded = 20;
/// How long MPI_Finalize may take before the process goes on without it.
constexpr Seconds kFarewell{10};
/// How long a process that ends after a failure waits for the one that says why.
constexpr Seconds kAfterFailure{2};
/// What clocks can add to now.
constexpr Seconds kMaxWait{1e9};

}  // namespace

std::shared_ptr<MpiThread> MpiThread::join(const Options& options) {
  auto self = std::make_shared<MpiThread>();
  self->mpi_ = &mpi();
  self->options_ = options;
  self->process_ = getpid();
  // It keeps what it needs alive: a process may end without it.
  std::thread([self] { self->run(); }).detach();
  std::unique_lock lock(self->mutex_);
  // A rank that has not joined gives no sign of life.
  const bool came =
      self->changed_.wait_for(lock, std::min(Seconds(options.timeout), kMaxWait),
                              [&] { return self->joined_ || !self->join_error_.empty(); });
  if (!came) throw CommError("init: waited ", options.timeout, " s for other ranks to call it");
  if (!self->join_error_.empty()) throw CommError(self->join_error_);
  return self;
}

MPI_Comm MpiThread::duplicate() {
  MPI_Comm result = nullptr;
  MPI_Request request = mpi_->request_null;
  mpi_->check(mpi_->Comm_idup(mpi_->world, &result, &request), "init");
  for (int done = 0; !done;) {
    mpi_->check(mpi_->Test(&request, &done, MPI_STATUS_IGNORE), "init");
    if (!done) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  // Errors come back as codes, and become exceptions of whoever waits.
  mpi_->check(mpi_->Comm_set_errhandler(result, mpi_->errors_return), "init");
  return result;
}

/// MPI_Finalize, which a program that called MPI_Init calls, begins with the attributes of
/// MPI_COMM_SELF.
void MpiThread::leave_before_finalize() {
  const auto called = [](MPI_Comm, int, void* self, void*) {
    static_cast<MpiThread*>(self)->leave_at_exit();
    return MPI_SUCCESS;
  };
  const auto not_copied = [](MPI_Comm, int, void*, void*, void*, int* flag) {
    *flag = 0;
    return MPI_SUCCESS;
  };
  int key = 0;
  mpi_->check(mpi_->Comm_create_keyval(not_copied, called, &key, nullptr), "init");
  mpi_->check(mpi_->Comm_set_attr(mpi_->self, key, this), "init");
}

void MpiThread::enter() {
  int initialized = 0, finalized = 0, level = MPI_THREAD_FUNNELED;
  mpi_->check(mpi_->Finalized(&finalized), "init");
  if (finalized) throw CommError("init: the program has called MPI_Finalize already");
  mpi_->check(mpi_->Initialized(&initialized), "init");
  joined_running_ = initialized != 0;
  if (!initialized)
    mpi_->check(mpi_->Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "init");
  else
    mpi_->check(mpi_->Query_thread(&level), "init");
  if (initialized && level != MPI_THREAD_MULTIPLE)
    throw CommError(
        "init: the program has called MPI itself, and wanted less than "
        "MPI_THREAD_MULTIPLE of MPI_Init_thread, which two threads need");
  if (initialized)
    leave_before_finalize();
  else  // errors come back as codes from here on
    mpi_->check(mpi_->Comm_set_errhandler(mpi_->world, mpi_->errors_return), "init");
  mpi_->check(mpi_->Comm_rank(mpi_->world, &rank_), "init");
  mpi_->check(mpi_->Comm_size(mpi_->world, &size_), "init");
  comm_ = duplicate();
  signs_ = std::make_unique<Signs>(*mpi_, duplicate(), rank_, size_);
  left_.assign(size_t(size_), Clock::time_point());
  void* bound = nullptr;
  int found = 0;
  mpi_->check(mpi_->Comm_get_attr(mpi_->world, MPI_TAG_UB, &bound, &found), "init");
  const int tags = found ? *static_cast<int*>(bound) : 32767;
  tags_per_group_ = int((int64_t(tags) + 1) / kGroups);
}

void MpiThread::run() {
  try {
    enter();
  } catch (const std::exception& e) {
    std::lock_guard lock(mutex_);
    join_error_ = e.what();
    changed_.notify_all();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    joined_ = true;
    changed_.notify_all();
  }
  while (!may_end()) turn();
  end();
}

/// One look at everything.
void MpiThread::turn() {
  bool moved = false;
  try {
    start_submitted();
    moved = move_on();
    listen();
    look_for_absent();
    look_for_late();
  } catch (const std::exception& e) {
    set_failure({rank_, e.what(), {}});
  }
  try {
    send_wishes();
  } catch (const std::exception&) {  // nobody can be told
    told_failure_ = true;
  }
  nap(moved);
}

void MpiThread::start_submitted() {
  std::vector<std::shared_ptr<MpiOperation>> fresh;
  {
    std::lock_guard lock(mutex_);
    if (submitted_.empty()) return;
    fresh.swap(submitted_);
    if (failure_.from >= 0) return;
  }
  for (const auto& operation : fresh) {
    active_.push_back(operation);
    naming(*operation, [&] { operation->begin(*mpi_, comm_); });
  }
}

/// Does f for an operation, which errors then name.
template <class F>
void MpiThread::naming(const MpiOperation& operation, F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    std::unique_lock lock(mutex_);
    const std::string place = at_place(operation.name());
    lock.unlock();
    throw CommError(place, e.what());
  }
}

bool MpiThread::move_on() {
  {
    std::lock_guard lock(mutex_);
    if (failure_.from >= 0) return false;  // kept: the library may still write into them
  }
  bool moved = false, finished = false;
  for (const auto& operation : active_)
    naming(*operation, [&] {
      while (!operation->finished() && operation->poll(*mpi_, comm_)) moved = true;
    });
  if (!moved) return false;
  std::vector<std::shared_ptr<MpiOperation>> ended;
  std::erase_if(active_, [&](const auto& operation) {
    if (operation->finished()) ended.push_back(operation);
    return operation->finished();
  });
  finished = !ended.empty();
  if (finished) {
    std::lock_guard lock(mutex_);
    for (const auto& operation : ended) operation->done_ = true;
    changed_.notify_all();
  }
  return true;
}

void MpiThread::nap(bool moved) {
  std::unique_lock lock(mutex_);
  if (moved || !submitted_.empty()) {
    idle_turns_ = 0;
    return;
  }
  ++idle_turns_;
  const bool failed = failure_.from >= 0;
  if (waiters_ > 0 && !failed && idle_turns_ < (crowded_ ? kSpinsCrowded : kSpins)) {
    lock.unlock();
    sched_yield();
    return;
  }
  // The longer nothing comes the less a nap adds, and the less may looking cost.
  const int64_t longest = active_.empty() || failed ? 5000 : 300;
  const int64_t us = std::min<int64_t>(longest, 50 + 5 * idle_turns_);
  work_.wait_for(lock, std::chrono::microseconds(us));
}

void MpiThread::require_own_process(const char* operation) const {
  if (getpid() != process_)
    throw CommError(operation, ": this process was forked from a rank, and is none");
}

void MpiThread::submit(const std::shared_ptr<MpiOperation>& operation) {
  const char* name = operation->name();
  require_own_process(name);
  std::lock_guard lock(mutex_);
  if (leaving_ != Leaving::no) throw CommError(at_place(name), "this rank has left the others");
  submitted_.push_back(operation);
  work_.notify_one();
}

bool MpiThread::done(const MpiOperation& operation) {
  std::lock_guard lock(mutex_);
  return operation.done_ || failure_.from >= 0;
}

void MpiThread::wait(MpiOperation& operation) {
  require_own_process(operation.name());
  std::unique_lock lock(mutex_);
  if (operation.done_) return;
  const Clock::time_point begin = Clock::now();
  ++waiters_;
  idle_turns_ = 0;
  work_.notify_one();
  changed_.wait(lock, [&] { return operation.done_ || failure_.from >= 0; });
  --waiters_;
  operation.meter_->waited(Seconds(Clock::now() - begin).count());
  if (!operation.done_) throw_failure(operation.name());
}

bool MpiThread::may_end() {
  std::unique_lock lock(mutex_);
  if (leaving_ == Leaving::after_failure) {
    // Launchers kill all ranks when the first has ended: that is to be the one that says why.
    const int first = speaker();
    const bool is_told = told_ending_ && told_failure_ && signs_->all_sent() &&
                         (first == rank_ || signs_->has_failed_and_ended(first));
    return is_told || Seconds(ending_.seconds()) > kAfterFailure;
  }
  const bool others_may_follow = told_leaving_ && active_.empty() && submitted_.empty();
  if (leaving_ != Leaving::asked || failure_.from >= 0 || !others_may_follow) return false;
  return not_leaving().empty() && signs_->all_sent();
}

void MpiThread::end() {
  bool ends_mpi = false;
  {
    std::lock_guard lock(mutex_);
    // Where something failed others may not come, and MPI_Finalize would wait for them.
    ends_mpi = failure_.from < 0 && !joined_running_;
    if (ends_mpi) leaving_ = Leaving::finalizing;
    changed_.notify_all();
  }
  signs_->close();
  if (ends_mpi) mpi_->Finalize();
  std::lock_guard lock(mutex_);
  leaving_ = Leaving::ended;
  changed_.notify_all();
}

std::vector<int> MpiThread::not_leaving() {
  std::vector<int> ranks;
  for (int r = 0; r < size_; ++r)
    if (r != rank_ && left_[size_t(r)] == Clock::time_point()) ranks.push_back(r);
  return ranks;
}

void MpiThread::leave() {
  if (getpid() != process_) return;
  std::unique_lock lock(mutex_);
  if (!joined_ || leaving_ != Leaving::no) return;
  leaving_ = Leaving::asked;
  work_.notify_one();
  const auto is_over = [&] { return leaving_ != Leaving::asked || failure_.from >= 0; };
  // Others are given time to come, as for any operation.
  for (Waiting waiting; !is_over();) {
    changed_.wait_for(lock, std::chrono::milliseconds(50), is_over);
    const std::vector<int> missing = not_leaving();
    const double patience = options_.patience;
    if (waiting.seconds() <= patience || missing.empty()) continue;
    lock.unlock();
    set_late(patience, missing);
    lock.lock();
  }
  if (failure_.from >= 0) {
    if (leaving_ == Leaving::asked) leaving_ = Leaving::no;
    throw_failure("leave");
  }
  if (changed_.wait_for(lock, kFarewell, [&] { return leaving_ == Leaving::ended; })) return;
  throw CommError(at_place("leave"), "waited ", kFarewell.count(),
                  " s for MPI_Finalize, which returns when all ranks have called it");
}

void MpiThread::leave_at_exit() {
  try {
    return leave();
  } catch (const std::exception&) {  // a process that ends has nobody to tell
  }
  std::unique_lock lock(mutex_);
  if (leaving_ != Leaving::no) return;
  leaving_ = Leaving::after_failure;
  ending_ = Waiting();
  work_.notify_one();
  // MPI is not to be called while its library is taken down.
  changed_.wait_for(lock, kFarewell, [&] { return leaving_ == Leaving::ended; });
}

}  // namespace olm::dist::detail
