#pragma once
// Programs of several ranks, started by Open MPI's mpirun.
#include <map>
#include <string>

namespace olm::test {

struct Launched {
  int status = 0;   // kOutOfTime where it did not end by itself
  std::string out;  // of all ranks and mpirun, both streams
};

inline constexpr int kOutOfTime = 124;

/// What mpirun and programs that it starts want to find in the environment.
const std::map<std::string, std::string>& launch_environment();
/// True where the library was built with Open MPI and its mpirun can start processes; else the test
/// has nothing to say, which a message tells.
bool has_mpirun();
/// Runs a shell's `command` as n ranks on this machine; `options` of mpirun, `environment` as
/// "NAME=value NAME=value". Ended after minutes.
Launched mpirun(int n, const std::string& command, const std::string& environment = "",
                const std::string& options = "");
/// Runs a shell's command in mpirun's environment, without it.
Launched run_shell(const std::string& command);

}  // namespace olm::test
