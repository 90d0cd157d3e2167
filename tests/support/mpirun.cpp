#include "tests/support/mpirun.h"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdio>
#include <stdexcept>

#include <olm/engine/comm.h>

namespace olm::test {
namespace {

/// Ranks may be more than there are cores, and keep to none of them.
constexpr const char* kMpirun = "mpirun --oversubscribe --bind-to none ";

bool can_start() {
  if (!dist::is_available()) return false;
  const Launched l = run_shell(std::string("timeout -k 2 120 ") + kMpirun + "-n 2 true");
  if (l.status != 0) MESSAGE("skipped: mpirun starts nothing here: ", l.out);
  return l.status == 0;
}

}  // namespace

const std::map<std::string, std::string>& launch_environment() {
  static const std::map<std::string, std::string> values = {
      {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
      {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
      // Containers forbid processes to read each other's memory.
      {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},
      // What Open MPI leaves behind at its end is not ours.
      {"ASAN_OPTIONS", "detect_leaks=0"}};
  return values;
}

Launched run_shell(const std::string& command) {
  std::string line = "export";
  for (const auto& [name, value] : launch_environment()) line += " " + name + "=" + value;
  // Several may be started at once: none is to hold what another writes to.
  FILE* pipe = ::popen((line + "; { " + command + "; } 2>&1 </dev/null").c_str(), "re");
  if (!pipe) throw std::runtime_error("no shell");
  Launched result;
  char part[4096];
  for (size_t n; (n = std::fread(part, 1, sizeof part, pipe)) > 0;) result.out.append(part, n);
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

bool has_mpirun() {
  static const bool can = can_start();
  return can;
}

Launched mpirun(int n, const std::string& command, const std::string& environment,
                const std::string& options) {
  static_assert(kOutOfTime == 124, "what timeout says");
  return run_shell(environment + " timeout -k 2 300 " + kMpirun + options + " -n " +
                   std::to_string(n) + " " + command);
}

}  // namespace olm::test
