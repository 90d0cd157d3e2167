#pragma once
// A subcommand at work.
#include <functional>
#include <string>

namespace olm::tools {

/// What the command line asked for: the name for messages, and the work.
struct Job {
  std::string name = {};
  std::function<int()> run = {};
  bool on_ranks = false;     ///< the processes that a launcher started do it together
  std::string refused = {};  ///< why there is no work: what is wrong with the command line
};
/// Runs the job; any error becomes one sentence on standard error, of one of several ranks, and
/// status 1 on all.
int run_job(const Job& job);
/// Says on standard error what is wrong with a command line; of several ranks the first does.
/// Returns the exit status.
int refuse_command_line(const std::string& problem);
/// Prints what a command line wants to know in place of work, such as the help. Ranks join before,
/// so that others with work to do learn of it. Returns the exit status.
int answer_command_line(const std::string& name, const std::function<int()>& print);
/// Opens what came closed of the three standard streams, so that no file gets their numbers.
void fill_standard_streams();

}  // namespace olm::tools
