#pragma once
// What a transport does: it carries messages. What ranks send each other is decided in comm.cpp,
// once for all transports; every operation is one exchange, or two.
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include <olm/engine/comm.h>

namespace olm::dist::detail {

/// Bytes to or from another rank, in the transport's memory.
struct Message {
  int peer = 0;
  void* data = nullptr;
  size_t bytes = 0;
};

/// Messages over a transport whose counts are int travel in pieces of so many bytes, a multiple of
/// 8 and the same on all ranks. Tests take small ones.
OLM_API extern size_t piece_bytes;

/// Messages that travel at the same time; those between two ranks arrive in the order given.
struct Exchange {
  const char* name = "";            ///< of the operation, for errors
  std::vector<Message> sends = {};  ///< none to the rank itself
  std::vector<Message> receives = {};
  Tensors kept = {};  ///< alive until it is done
  /// What to do with what arrived, or empty: launches it on the stream.
  std::function<void(const kernels::Stream&)> then = {};
  /// Begins when `then` has run; part of the same operation.
  std::shared_ptr<Exchange> next = {};
};

/// What becomes of an exchange.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual bool done() = 0;
  virtual void wait() = 0;
};

/// Numbers of the groups that a process is in; from any thread.
class OLM_API GroupNumbers {
 public:
  /// Members of a group, whose number is used until the last handle on them is dropped: messages of
  /// a later group of that number then meet none of this one.
  using Members = std::shared_ptr<const std::vector<int>>;
  static Members take(const std::shared_ptr<GroupNumbers>& numbers, int64_t number,
                      std::vector<int> members);
  std::vector<int64_t> used() const;

 private:
  mutable std::mutex mutex_;
  std::set<int64_t> used_;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Throws unless x is where this transport reaches.
  virtual void require_reach(const char* op, const Tensor& x) const = 0;
  /// Begins. `then` runs once all has arrived and been sent, on a thread of the transport or where
  /// its stream says, before Progress::done().
  virtual std::shared_ptr<Progress> start(Exchange exchange) = 0;
  /// x becomes the sum over ranks, in an order of the transport's choice; null where the transport
  /// has no sum for x.
  virtual std::shared_ptr<Progress> start_all_reduce(const Tensor& x) = 0;
  /// Returns when all that this process has begun on cards has run, or will not: others may wait
  /// for it.
  virtual void finish() {}
  /// The same ranks with messages in host memory; null where this is it.
  virtual std::shared_ptr<Backend> host() { return nullptr; }
  /// A group is known by a number that none of its ranks uses. Throws alike on all ranks.
  virtual std::vector<int64_t> used_numbers() const { return {}; }
  virtual std::shared_ptr<Backend> group(const std::vector<int>& ranks, int64_t number) = 0;
  virtual Traffic traffic() const = 0;
  /// Why an operation of these ranks that another transport carries, under way for so many seconds
  /// or not at all (0), will not end: a rank failed, is silent, or does not come; null where it
  /// will. From any thread.
  virtual std::exception_ptr failure(const char* operation, double seconds) {
    return (void)operation, (void)seconds, nullptr;
  }
};

/// The same ranks, whose tensors may also be on cards, by NCCL; `host` where the build has no CUDA.
OLM_API std::shared_ptr<Backend> with_cards(std::shared_ptr<Backend> host);

/// How long something is waited for. Time in which nobody asked does not count: a process that was
/// stopped, as when a scheduler suspends a job, waited for nobody.
class OLM_API Waiting {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Waiting(Clock::time_point begin = Clock::now()) : asked_(begin) {}
  /// Seconds since it began, to be asked for all the while.
  double seconds(Clock::time_point now = Clock::now());

 private:
  Clock::time_point asked_;
  Clock::duration waited_ = {};
};

/// Counts the traffic of a Backend; from any thread.
class OLM_API Meter {
 public:
  void begin(size_t bytes_sent);
  void begin(const Exchange& exchange);
  void end();
  void waited(double seconds);
  Traffic read() const;

 private:
  using Clock = std::chrono::steady_clock;
  mutable std::mutex mutex_;
  Traffic traffic_;
  int64_t under_way_ = 0;
  Clock::time_point since_;
};

/// The ranks that a process was started with, and what they tell each other beside operations: see
/// the functions of these names in comm.h. As it is here, a process alone.
class OLM_API World {
 public:
  virtual ~World() = default;
  virtual std::shared_ptr<Backend> backend();
  virtual void set_options(const Options&) {}
  virtual void leave() {}
  virtual int local_rank() const { return 0; }
  virtual int local_size() const { return 1; }
  virtual std::vector<std::string> hosts() const;
  virtual void set_place(const std::string&) {}
  virtual void fail(const std::string&) {}
  virtual bool speaks_for(const std::exception&) { return true; }
  virtual void ask_all_to_stop() { asked_ = true; }
  virtual bool asked_to_stop() { return asked_; }

 private:
  std::atomic<bool> asked_ = false;
};

/// How many processes a launcher says that it started together, and the variable that says so: null
/// where there was no launcher.
struct Company {
  const char* says = nullptr;
  std::string ranks = "1";
};
Company company();

/// Makes `world` that of the calling thread, in place of the process's; null takes it away. For
/// ranks that are threads of one process.
OLM_API void set_thread_world(std::shared_ptr<World> world);

}  // namespace olm::dist::detail
