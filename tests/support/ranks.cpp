#include "tests/support/ranks.h"

#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <tuple>

#include <olm/engine/comm/backend_internal.h>

namespace olm::test {
namespace {

using namespace dist::detail;

/// An operation of one rank of a group.
struct Operation {
  std::shared_ptr<Exchange> exchange;  // the stage under way
  int64_t group = 0, number = 0, stage = 0;
  std::vector<int> ranks;         // of the group, in the world
  GroupNumbers::Members members;  // the same, so that the number of the group stays used
  int rank = 0;                   // in the group
  size_t open = 0;                // messages that have not arrived or left
  bool done = false;
  std::shared_ptr<Meter> meter;
};
using OperationPtr = std::shared_ptr<Operation>;

/// Both sides of a message, known by group, operation, stage, sender, receiver and number.
struct Letter {
  OperationPtr from, to;
  Message sent, wanted;
};
using Address = std::tuple<int64_t, int64_t, int64_t, int, int, int>;

/// Where messages of all ranks lie until a thread delivers them: one whose both sides are there,
/// drawn at random, is copied from one buffer to the other.
class Post {
 public:
  explicit Post(const RankOptions& options)
      : options_(options), random_(options.seed), carrier_([this] { carry(); }) {}
  ~Post() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    carrier_.join();
  }

  void begin(const OperationPtr& op) {
    std::lock_guard lock(mutex_);
    begin_stage(op);
    changed_.notify_all();
  }

  bool done(const Operation& op) {
    std::lock_guard lock(mutex_);
    return op.done || failed_ >= 0;
  }

  void wait(const Operation& op, int rank) {
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return op.done || failed_ >= 0; });
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    op.meter->waited(waited.count());
    if (!op.done) throw_failure(rank, op.exchange->name);
  }

  void fail(int rank, const std::string& sentence) {
    std::lock_guard lock(mutex_);
    if (failed_ < 0) failed_ = rank, sentence_ = sentence;
    changed_.notify_all();
  }

  std::exception_ptr failure(int rank, const char* operation) {
    std::lock_guard lock(mutex_);
    if (failed_ < 0) return nullptr;
    try {
      throw_failure(rank, operation);
    } catch (const dist::CommError&) {
      return std::current_exception();
    }
  }

  void ask_to_stop() { asked_ = true; }
  bool asked() const { return asked_; }

 private:
  [[noreturn]] void throw_failure(int rank, const char* op) const {
    if (failed_ == rank) throw dist::CommError(op, ": this rank has failed: ", sentence_);
    throw dist::PeerError("rank ", failed_, ": ", sentence_);
  }

  void begin_stage(const OperationPtr& op) {
    std::map<int, int> sent, wanted;
    op->open = op->exchange->sends.size() + op->exchange->receives.size();
    for (const Message& m : op->exchange->sends) {
      Letter& letter = letters_[{op->group, op->number, op->stage, op->ranks[op->rank],
                                 op->ranks.at(m.peer), sent[m.peer]++}];
      letter.from = op;
      letter.sent = m;
    }
    for (const Message& m : op->exchange->receives) {
      Letter& letter = letters_[{op->group, op->number, op->stage, op->ranks.at(m.peer),
                                 op->ranks[op->rank], wanted[m.peer]++}];
      letter.to = op;
      letter.wanted = m;
    }
    if (op->open == 0) empty_.push_back(op);
  }

  void carry() {
    std::unique_lock lock(mutex_);
    while (!closed_) {
      if (failed_ >= 0) {  // nothing arrives any more
        changed_.wait(lock, [&] { return closed_; });
        return;
      }
      if (!empty_.empty()) {
        const OperationPtr op = empty_.back();
        empty_.pop_back();
        end_stage(op, lock);
        continue;
      }
      std::vector<std::map<Address, Letter>::iterator> ready;
      for (auto i = letters_.begin(); i != letters_.end(); ++i)
        if (i->second.from && i->second.to) ready.push_back(i);
      if (ready.empty()) {
        changed_.wait(lock);
        continue;
      }
      const auto drawn = ready[random_() % ready.size()];
      const Letter letter = drawn->second;
      letters_.erase(drawn);
      deliver(letter, lock);
    }
  }

  void deliver(const Letter& letter, std::unique_lock<std::mutex>& lock) {
    const auto delay = std::chrono::microseconds(random_() % uint64_t(options_.delay_us + 1));
    lock.unlock();
    std::this_thread::sleep_for(delay);
    if (letter.sent.bytes == letter.wanted.bytes)
      std::memcpy(letter.wanted.data, letter.sent.data, letter.sent.bytes);
    lock.lock();
    if (letter.sent.bytes != letter.wanted.bytes && failed_ < 0) {
      failed_ = letter.from->ranks[letter.from->rank];
      sentence_ = std::string(letter.to->exchange->name) + ": wanted " +
                  std::to_string(letter.wanted.bytes) + " bytes from this rank, got " +
                  std::to_string(letter.sent.bytes);
      changed_.notify_all();
      return;
    }
    for (const OperationPtr& op : {letter.from, letter.to})
      if (--op->open == 0) end_stage(op, lock);
  }

  void end_stage(const OperationPtr& op, std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    if (op->exchange->then) op->exchange->then({});
    lock.lock();
    if (op->exchange->next) {
      op->exchange = op->exchange->next;
      ++op->stage;
      begin_stage(op);
      return;
    }
    op->exchange->kept.clear();
    op->meter->end();
    op->done = true;
    changed_.notify_all();
  }

  const RankOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::mt19937_64 random_;
  std::map<Address, Letter> letters_;
  std::vector<OperationPtr> empty_;  // stages without messages
  int failed_ = -1;
  std::string sentence_;
  std::atomic<bool> asked_ = false;
  bool closed_ = false;
  std::thread carrier_;
};

struct ThreadProgress final : Progress {
  ThreadProgress(std::shared_ptr<Post> p, OperationPtr o) : post(std::move(p)), op(std::move(o)) {}
  bool done() override { return post->done(*op); }
  void wait() override { post->wait(*op, op->ranks[op->rank]); }
  std::shared_ptr<Post> post;
  OperationPtr op;
};

class ThreadBackend final : public Backend {
 public:
  ThreadBackend(std::shared_ptr<Post> post, std::vector<int> ranks, int rank, int64_t group,
                const std::shared_ptr<GroupNumbers>& numbers)
      : post_(std::move(post)),
        ranks_(std::move(ranks)),
        rank_(rank),
        group_(group),
        numbers_(numbers),
        members_(GroupNumbers::take(numbers, group, ranks_)) {}
  int rank() const override { return rank_; }
  int size() const override { return int(ranks_.size()); }
  void require_reach(const char* op, const Tensor& x) const override {
    require(x.device() == cpu, op, ": wanted a tensor on cpu, got one on ", x.device());
  }
  std::shared_ptr<Progress> start(Exchange exchange) override {
    meter_->begin(exchange);
    auto op = std::make_shared<Operation>();
    op->exchange = std::make_shared<Exchange>(std::move(exchange));
    op->group = group_;
    op->number = number_++;
    op->ranks = ranks_;
    op->members = members_;
    op->rank = rank_;
    op->meter = meter_;
    post_->begin(op);
    return std::make_shared<ThreadProgress>(post_, op);
  }
  std::shared_ptr<Progress> start_all_reduce(const Tensor&) override { return nullptr; }
  std::vector<int64_t> used_numbers() const override { return numbers_->used(); }
  std::shared_ptr<Backend> group(const std::vector<int>& ranks, int64_t number) override {
    std::vector<int> members;
    int rank = 0;
    for (const int r : ranks) {
      if (r == rank_) rank = int(members.size());
      members.push_back(ranks_.at(r));
    }
    return std::make_shared<ThreadBackend>(post_, members, rank, number, numbers_);
  }
  dist::Traffic traffic() const override { return meter_->read(); }
  std::exception_ptr failure(const char* operation, double) override {
    return post_->failure(ranks_[rank_], operation);
  }

 private:
  std::shared_ptr<Post> post_;
  std::vector<int> ranks_;
  int rank_;
  int64_t group_, number_ = 0;
  std::shared_ptr<GroupNumbers> numbers_;  // of the rank
  GroupNumbers::Members members_;
  std::shared_ptr<Meter> meter_ = std::make_shared<Meter>();
};

class ThreadWorld final : public World {
 public:
  ThreadWorld(std::shared_ptr<Post> post, int rank, int size)
      : post_(std::move(post)), rank_(rank), size_(size) {
    std::vector<int> ranks(size);
    for (int r = 0; r < size; ++r) ranks[r] = r;
    backend_ = with_cards(
        std::make_shared<ThreadBackend>(post_, ranks, rank, 0, std::make_shared<GroupNumbers>()));
  }
  std::shared_ptr<Backend> backend() override { return backend_; }
  void leave() override { dist::Comm(backend_).barrier(); }
  int local_rank() const override { return rank_; }
  int local_size() const override { return size_; }
  std::vector<std::string> hosts() const override {
    return std::vector<std::string>(size_, "localhost");
  }
  void fail(const std::string& sentence) override { post_->fail(rank_, sentence); }
  bool speaks_for(const std::exception& e) override {
    return dynamic_cast<const dist::PeerError*>(&e) == nullptr;
  }
  void ask_all_to_stop() override { post_->ask_to_stop(); }
  bool asked_to_stop() override { return post_->asked(); }

 private:
  std::shared_ptr<Post> post_;
  int rank_, size_;
  std::shared_ptr<Backend> backend_;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(const dist::Comm&)>& f,
               const RankOptions& options) {
  auto post = std::make_shared<Post>(options);
  std::mutex mutex;
  std::exception_ptr first;
  bool first_is_peer = false;  // it tells of another rank's, which is to come
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto world = std::make_shared<ThreadWorld>(post, rank, ranks);
      set_thread_world(world);
      try {
        f(dist::world());
      } catch (const std::exception& e) {
        {
          std::lock_guard lock(mutex);
          const bool peer = dynamic_cast<const dist::PeerError*>(&e);
          if (!first || (first_is_peer && !peer)) {
            first = std::current_exception();
            first_is_peer = peer;
          }
        }
        world->fail(e.what());
      }
      set_thread_world(nullptr);
    });
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace olm::test
