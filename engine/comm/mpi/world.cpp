#include <olm/engine/comm/mpi/world_internal.h>

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>

#include <olm/engine/comm/mpi/thread_internal.h>

namespace olm::dist::detail {
namespace {

class MpiBackend final : public Backend {
 public:
  /// Members are numbers of the world.
  MpiBackend(std::shared_ptr<MpiThread> thread, std::vector<int> members, int64_t number,
             const std::shared_ptr<GroupNumbers>& numbers)
      : thread_(std::move(thread)),
        members_(GroupNumbers::take(numbers, number, std::move(members))),
        number_(number),
        numbers_(numbers) {
    const auto place = std::find(members_->begin(), members_->end(), thread_->rank());
    rank_ = int(place - members_->begin());
  }
  int rank() const override { return rank_; }
  int size() const override { return int(members_->size()); }
  void require_reach(const char* op, const Tensor& x) const override {
    require(x.device() == cpu, op, ": wanted a tensor on cpu, got one on ", x.device());
  }

  std::shared_ptr<Progress> start(Exchange exchange) override {
    const int tags = thread_->tags_per_group();
    const int tag = int(number_) * tags + int(operations_++ % tags);
    return begun(
        std::make_shared<MpiOperation>(thread_, members_, tag, meter_, std::move(exchange)));
  }

  std::shared_ptr<Progress> start_all_reduce(const Tensor& x) override {
    // The library's own sums are over all ranks of its world.
    if (number_ != 0 || !summed_type(mpi(), x.dtype())) return nullptr;
    return begun(std::make_shared<MpiOperation>(thread_, members_, meter_, x));
  }

  std::vector<int64_t> used_numbers() const override { return numbers_->used(); }
  std::shared_ptr<Backend> group(const std::vector<int>& ranks, int64_t number) override {
    require(number < kGroups, "group: these ranks are in ", kGroups - 1,
            " groups already, wanted fewer at a time");
    std::vector<int> members;
    for (const int r : ranks) members.push_back(members_->at(size_t(r)));
    return std::make_shared<MpiBackend>(thread_, std::move(members), number, numbers_);
  }
  Traffic traffic() const override { return meter_->read(); }
  std::exception_ptr failure(const char* operation, double seconds) override {
    return thread_->failure(operation, seconds, *members_);
  }

 private:
  std::shared_ptr<Progress> begun(std::shared_ptr<MpiOperation> operation) {
    thread_->submit(operation);
    return operation;
  }

  std::shared_ptr<MpiThread> thread_;
  GroupNumbers::Members members_;  // of operations under way, too
  int64_t number_, operations_ = 0;
  std::shared_ptr<GroupNumbers> numbers_;
  std::shared_ptr<Meter> meter_ = std::make_shared<Meter>();
  int rank_ = 0;
};

std::string host_name() {
  char name[256] = "";
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

/// The cores on which the scheduler lets this process run, as bits.
std::string allowed_cores() {
  cpu_set_t cores;
  std::memset(&cores, 0xff, sizeof cores);  // of more than it has room for nothing is known
  sched_getaffinity(0, sizeof cores, &cores);
  return {reinterpret_cast<const char*>(&cores), sizeof cores};
}

class MpiWorld final : public World {
 public:
  explicit MpiWorld(std::shared_ptr<MpiThread> thread) : thread_(std::move(thread)) {
    std::vector<int> all(size_t(thread_->size()));
    std::iota(all.begin(), all.end(), 0);
    const auto host =
        std::make_shared<MpiBackend>(thread_, all, 0, std::make_shared<GroupNumbers>());
    backend_ = with_cards(host);
    learn_hosts(Comm(host));
  }
  std::shared_ptr<Backend> backend() override { return backend_; }
  void set_options(const Options& options) override { thread_->set_options(options); }
  void leave() override {
    backend_->finish();
    thread_->leave();
  }
  int local_rank() const override { return count_local(thread_->rank()); }
  int local_size() const override { return count_local(thread_->size()); }
  std::vector<std::string> hosts() const override { return thread_->hosts(); }
  void set_place(const std::string& place) override { thread_->set_place(place); }
  void fail(const std::string& sentence) override { thread_->fail(sentence); }
  bool speaks_for(const std::exception& error) override { return thread_->speaks_for(error); }
  void ask_all_to_stop() override { thread_->ask_all_to_stop(); }
  bool asked_to_stop() override { return thread_->asked_to_stop(); }

 private:
  /// The machine of each rank, and whether more ranks share the cores of this one than there are.
  void learn_hosts(const Comm& comm) {
    const std::string cores = allowed_cores();
    const std::vector<std::string> all = comm.all_gather(cores + host_name());
    std::vector<std::string> hosts;
    for (const std::string& each : all) hosts.push_back(each.substr(cores.size()));
    thread_->set_hosts(hosts);
    int64_t sharing = std::count(all.begin(), all.end(), all[size_t(comm.rank())]);
    for (const char each : cores) sharing -= std::popcount(uint8_t(each));
    thread_->set_crowded(sharing > 0);
  }
  /// Ranks below `end` on this machine.
  int count_local(int end) const {
    const std::vector<std::string> all = thread_->hosts();
    return int(std::count(all.begin(), all.begin() + end, all[size_t(thread_->rank())]));
  }

  std::shared_ptr<MpiThread> thread_;
  std::shared_ptr<Backend> backend_;
};

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value && *value;
}

/// True where this process was started as one of several. One that srun started alone is not of its
/// step's MPI: it may be one of many that a shell of this step starts.
bool is_launched() {
  const Company by = company();
  if (by.says && by.ranks == "1") return false;
  if (is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK")) return true;
  // Where Slurm speaks PMI-2, MPI_Init of an Open MPI that does not ends the process.
  require(!is_set("SLURM_STEP_NUM_TASKS"), "init: ", by.ranks, " ranks were started, says ",
          by.says ? by.says : "", ", that cannot find each other; wanted srun --mpi=pmix");
  return is_set("PMI_RANK");
}

/// Throws where a launcher says that it started several ranks, and Open MPI knows of one: it was
/// that of another MPI, or its variables were set by hand.
void require_company(const MpiThread& thread) {
  const Company by = company();
  if (thread.size() > 1 || by.ranks == "1") return;
  throw CommError("init: ", by.ranks, " ranks were started, says ", by.says, ", but ",
                  mpi().version,
                  " finds this one alone; wanted its own mpirun, or srun --mpi=pmix");
}

/// True where the program has called MPI_Init itself.
bool is_running() {
  if (!has_mpi()) return false;
  int initialized = 0;
  mpi().check(mpi().Initialized(&initialized), "init");
  return initialized != 0;
}

/// What this process has joined, or why it could not: MPI is begun once.
std::shared_ptr<MpiThread> joined;
std::exception_ptr failed;

void leave_at_exit() { joined->leave_at_exit(); }

}  // namespace

std::shared_ptr<World> join_mpi(const Options& options) {
  if (!is_running() && !is_launched()) return nullptr;
  // What the communication thread uses lives longer than it: it is there before it is registered.
  allocator_of(cpu);
  if (failed) std::rethrow_exception(failed);
  mpi();  // where there is none, there may be one next time
  try {
    joined = MpiThread::join(options);
    std::atexit(leave_at_exit);
    require_company(*joined);
    return std::make_shared<MpiWorld>(joined);
  } catch (const CommError&) {
    failed = std::current_exception();
    throw;
  }
}

std::string describe_mpi() { return mpi().version + ", " + mpi().file; }

}  // namespace olm::dist::detail
