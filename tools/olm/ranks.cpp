#include "tools/olm/ranks.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include <olm/engine/comm.h>
#include <olm/engine/cuda/report.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/version.h>

namespace olm::tools {

namespace {

/// A launcher, how it is typed, and the variables in which it says how many it started, and which
/// this one is. That of mpirun comes first: srun may have started mpirun's daemons.
struct Launcher {
  const char *name, *command, *ranks, *rank;
};
constexpr Launcher kLaunchers[] = {
    {"mpirun", "mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"srun", "srun --mpi=pmix", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
};

/// A number in the environment, or -1.
int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  int value = -1;
  if (text) std::from_chars(text, text + std::strlen(text), value);
  return value;
}

/// Seconds for which ranks wait for one that encodes a text or makes a vocabulary.
constexpr double kPreparing = 1e6;

/// The cores on which the scheduler lets this process run, as bytes.
std::string allowed_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return "";  // more than it has room for
  return {reinterpret_cast<const char*>(&cores), sizeof cores};
}

/// "2 each", "1 or 2 each".
std::string shares_text(int64_t all, int ranks) {
  int64_t least = all, most = 0;
  for (const SumTree::Node& node : SumTree(all).cut(ranks)) {
    least = std::min(least, node.size());
    most = std::max(most, node.size());
  }
  return least == most ? fmt::format("{} each", most) : fmt::format("{} to {} each", least, most);
}

}  // namespace

Launch launch() {
  for (const Launcher& launcher : kLaunchers) {
    const int ranks = number_in_environment(launcher.ranks);
    if (ranks >= 1)
      return {.ranks = ranks,
              .rank = std::max(0, number_in_environment(launcher.rank)),
              .launcher = launcher.name,
              .command = launcher.command};
  }
  return {};
}

bool is_first_rank() {
  const dist::Comm world = dist::world();
  return world.size() > 1 ? world.rank() == 0 : launch().rank == 0;
}

std::string from_first_rank(const std::string& text) {
  return dist::world().all_gather(is_first_rank() ? text : std::string()).front();
}

void join_ranks() { dist::init({.patience = kPreparing}); }

void limit_waiting(const RunConfig& config) {
  // Each sends signs as often as its own limit wants them: all change it at once.
  dist::world().barrier();
  dist::init({.timeout = config.dist.timeout});
}

void require_same_config(RunConfig config, bool resumed) {
  config.train.threads = 0;
  config.data.path.clear();
  std::map<std::string, std::string> values = {{"version", version()},
                                               {"--resume", resumed ? "given" : "left out"}};
  for (const KeyInfo& key : list_keys(config))
    values[key.path] = key.value.empty() ? "left out" : key.value;
  nn::require_same_on_all_ranks(values);
}

void share_cores(const TrainConfig& config) {
  if (config.threads > 0) return set_threads(int(config.threads));
  const dist::Comm world = dist::world();
  if (world.size() == 1) return;
  const std::vector<std::string> cores = world.all_gather(allowed_cores()), hosts = dist::hosts();
  const size_t mine = size_t(world.rank());
  int sharing = 0;
  for (size_t rank = 0; rank < cores.size(); ++rank)
    sharing += hosts[rank] == hosts[mine] && cores[rank] == cores[mine];
  if (!std::getenv("OLM_NUM_THREADS")) set_threads(std::max(1, num_threads() / sharing));
}

Device device_of_rank(const std::string& text) {
  const char* where = "train.device";
  Device device = parse_compute_device(text, where);
  if (device != cpu && dist::local_size() > 1) {
    require(text == "cuda", where, ": ", dist::local_size(),
            " ranks of a machine take a card each, and want cuda, got ", text);
    // One card that all see is another for each where the launcher shows them no more than theirs.
    const size_t cards = cuda_backend::cards().size();
    device = cuda(cards == 1 ? 0 : dist::local_rank());
  }
  require_device(device);
  return device;
}

std::string ranks_text(const RunConfig& config) {
  const int ranks = dist::world().size();
  const std::vector<std::string> hosts = dist::hosts();
  const std::string transport = dist::describe();
  const size_t machines = std::set<std::string>(hosts.begin(), hosts.end()).size();
  std::string text =
      fmt::format("{} on {} {}, {}; micro-batches {}, {}", ranks, machines,
                  machines == 1 ? "machine" : "machines", transport.substr(0, transport.find(',')),
                  config.train.accumulation, shares_text(config.train.accumulation, ranks));
  const auto& d = config.dist;
  text += d.zero == 1 ? "; moments spread (ZeRO-1)" : "; moments on each";
  if (d.experts > 1) text += fmt::format("; experts over {} ranks", d.experts);
  if (d.wire != f32) text += fmt::format("; gradients travel in {}", name_of(d.wire));
  if (!d.deterministic) text += "; sums in any order";
  return text;
}

std::string launched(const std::string& command) {
  const int ranks = dist::world().size();
  return ranks == 1 ? command : fmt::format("{} -n {} {}", launch().command, ranks, command);
}

}  // namespace olm::tools
