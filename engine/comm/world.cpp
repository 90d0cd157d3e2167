// What a process knows of its world, and the world of a process alone.
#include <algorithm>
#include <cstdlib>

#include <olm/engine/comm/backend_internal.h>
#if OLM_MPI
#include <olm/engine/comm/mpi/world_internal.h>
#endif

namespace olm::dist {
namespace detail {

size_t piece_bytes = size_t(1) << 30;

namespace {

/// One rank, which has nothing to exchange: Comm asks it for no exchange.
class Alone final : public Backend {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void require_reach(const char*, const Tensor&) const override {}
  std::shared_ptr<Progress> start(Exchange) override { return nullptr; }
  std::shared_ptr<Progress> start_all_reduce(const Tensor&) override { return nullptr; }
  std::shared_ptr<Backend> group(const std::vector<int>&, int64_t) override {
    return std::make_shared<Alone>();
  }
  Traffic traffic() const override { return {}; }
};

/// What it names is never destroyed: threads look at it to the end of the process, also while
/// another calls init().
std::atomic<World*>& process_world() {
  static std::atomic<World*> world = new World;
  return world;
}
std::mutex joining;
const std::shared_ptr<World>* joined = nullptr;

#if OLM_MPI
constexpr bool kAvailable = true;
std::string transport() { return describe_mpi(); }
#else
constexpr bool kAvailable = false;
std::string transport() { return "none: this build has no transport between processes"; }
/// A process alone; throws where a launcher started several.
std::shared_ptr<World> join_mpi(const Options&) {
  const Company by = company();
  require(by.ranks == "1", "init: ", by.ranks,
          " ranks were started, and this libolm was built without Open MPI (OLM_MPI)");
  return nullptr;
}
#endif

thread_local std::shared_ptr<World> thread_world;

World& current_world() { return thread_world ? *thread_world : *process_world().load(); }

}  // namespace

GroupNumbers::Members GroupNumbers::take(const std::shared_ptr<GroupNumbers>& numbers,
                                         int64_t number, std::vector<int> members) {
  {
    std::lock_guard lock(numbers->mutex_);
    numbers->used_.insert(number);
  }
  const auto give_back = [numbers, number](const std::vector<int>* list) {
    delete list;
    std::lock_guard lock(numbers->mutex_);
    numbers->used_.erase(number);
  };
  return {new std::vector<int>(std::move(members)), give_back};
}

std::vector<int64_t> GroupNumbers::used() const {
  std::lock_guard lock(mutex_);
  return {used_.begin(), used_.end()};
}

double Waiting::seconds(Clock::time_point now) {
  // More than a loaded machine keeps a thread waiting.
  constexpr std::chrono::milliseconds kMaxGap{500};
  waited_ += std::min<Clock::duration>(now - asked_, kMaxGap);
  asked_ = now;
  return std::chrono::duration<double>(waited_).count();
}

void Meter::begin(size_t bytes_sent) {
  std::lock_guard lock(mutex_);
  if (under_way_++ == 0) since_ = Clock::now();
  ++traffic_.operations;
  traffic_.bytes_sent += int64_t(bytes_sent);
}

void Meter::begin(const Exchange& exchange) {
  size_t bytes = 0;
  for (const Exchange* e = &exchange; e; e = e->next.get())
    for (const Message& m : e->sends) bytes += m.bytes;
  begin(bytes);
}

void Meter::end() {
  std::lock_guard lock(mutex_);
  if (--under_way_ == 0)
    traffic_.seconds += std::chrono::duration<double>(Clock::now() - since_).count();
}

void Meter::waited(double seconds) {
  std::lock_guard lock(mutex_);
  traffic_.waited_seconds += seconds;
}

Traffic Meter::read() const {
  std::lock_guard lock(mutex_);
  Traffic t = traffic_;
  if (under_way_ > 0) t.seconds += std::chrono::duration<double>(Clock::now() - since_).count();
  return t;
}

std::shared_ptr<Backend> World::backend() {
  static const std::shared_ptr<Backend> alone = std::make_shared<Alone>();
  return alone;
}

// Who starts processes for another launcher comes after it: srun may have started the daemons of
// Open MPI's mpirun or of MPICH's.
Company company() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* ranks = std::getenv(name); ranks && *ranks) return {name, ranks};
  return {};
}

std::vector<std::string> World::hosts() const { return {"localhost"}; }

void set_thread_world(std::shared_ptr<World> world) { thread_world = std::move(world); }

}  // namespace detail

using detail::current_world;

Comm init(const Options& options) {
  require(options.timeout > 0 && options.patience > 0,
          "init: wanted a timeout and a patience above 0 s, got ", options.timeout, " and ",
          options.patience);
  const bool own = detail::thread_world != nullptr;
  std::lock_guard lock(detail::joining);
  if (!own && !detail::joined)
    if (auto joined = detail::join_mpi(options)) {
      detail::joined = new std::shared_ptr<detail::World>(std::move(joined));
      detail::process_world() = detail::joined->get();
    }
  current_world().set_options(options);
  return world();
}

void leave() { current_world().leave(); }
Comm world() { return Comm(current_world().backend()); }
int local_rank() { return current_world().local_rank(); }
int local_size() { return current_world().local_size(); }
std::vector<std::string> hosts() { return current_world().hosts(); }
void set_place(const std::string& place) { current_world().set_place(place); }
void fail(const std::string& sentence) { current_world().fail(sentence); }
bool speaks_for(const std::exception& error) { return current_world().speaks_for(error); }
void ask_all_to_stop() { current_world().ask_all_to_stop(); }
bool asked_to_stop() { return current_world().asked_to_stop(); }
bool is_available() { return detail::kAvailable; }
std::string describe() {
  try {
    return detail::transport();
  } catch (const Error& e) {
    return std::string("none: ") + e.what();
  }
}

}  // namespace olm::dist
