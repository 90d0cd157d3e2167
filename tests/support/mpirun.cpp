#include "tests/support/mpirun.h"

#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <stdexcept>

#include <olm/engine/comm.h>

namespace olm::test {
namespace {

// Root may start ranks in a container, where they may not read each other's memory; what Open MPI
// leaves behind at its end is not ours.
constexpr const char* kEnvironment =
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
    "OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0";

}  // namespace

Launched run_shell(const std::string& command) {
  const auto begin = std::chrono::steady_clock::now();
  FILE* pipe =
      ::popen((std::string("export ") + kEnvironment + "; { " + command + "; } 2>&1").c_str(), "r");
  if (!pipe) throw std::runtime_error("no shell");
  Launched result;
  char part[4096];
  for (size_t n; (n = std::fread(part, 1, sizeof part, pipe)) > 0;) result.out.append(part, n);
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

bool has_mpirun() { return dist::is_available() && run_shell("command -v mpirun").status == 0; }

Launched mpirun(int n, const std::string& command, const std::string& environment,
                const std::string& options, int limit) {
  return run_shell(environment + " timeout -k 2 " + std::to_string(limit) +
                   " mpirun --oversubscribe --bind-to none " + options + " -n " +
                   std::to_string(n) + " " + command);
}

}  // namespace olm::test
