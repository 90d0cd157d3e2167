#pragma once
// A subcommand at work.
#include <functional>
#include <string>

namespace olm::tools {

/// What the command line asked for: the name for messages, and the work.
struct Job {
  std::string name;
  std::function<int()> run;
};
/// Runs the job; any error becomes one sentence on standard error and status 1.
int run_job(const Job& job);
/// Opens what came closed of the three standard streams, so that no file gets their numbers.
void fill_standard_streams();

}  // namespace olm::tools
