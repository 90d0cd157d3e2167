#pragma once
// Programs of several ranks, started by Open MPI's mpirun.
#include <string>

namespace olm::test {

struct Launched {
  int status = 0;
  std::string out;  // of all ranks and mpirun, both streams
  double seconds = 0;
};

/// True where there is an mpirun and the library was built with Open MPI; else the test has nothing
/// to say.
bool has_mpirun();
/// Runs a shell's `command` as n ranks on this machine; `options` of mpirun, `environment` as
/// "NAME=value NAME=value". Killed after `limit` seconds.
Launched mpirun(int n, const std::string& command, const std::string& environment = "",
                const std::string& options = "", int limit = 60);
/// Runs a shell's command in mpirun's environment, without it.
Launched run_shell(const std::string& command);

}  // namespace olm::test
