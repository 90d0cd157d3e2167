#pragma once
// The built program on several ranks of this machine.
#include <sys/stat.h>

#include <cstdlib>
#include <map>
#include <sstream>
#include <string>

#include <tests/support/mpirun.h>
#include <tests/tools/program.h>

namespace olm::test {

/// False, and a message says so, where ranks cannot be started here.
inline bool can_launch() {
  const bool can = has_mpirun();
  if (!can) MESSAGE("skipped: mpirun starts nothing here, or this build has no MPI");
  return can;
}

using Variables = std::map<std::string, std::string>;

/// Sets variables of the environment as long as it lives.
class Environment {
 public:
  explicit Environment(const Variables& values) {
    for (const auto& [name, value] : values) {
      if (const char* before = std::getenv(name.c_str())) before_[name] = before;
      ::setenv(name.c_str(), value.c_str(), 1);
      names_.push_back(name);
    }
  }
  ~Environment() {
    for (const std::string& name : names_)
      if (const auto found = before_.find(name); found != before_.end())
        ::setenv(name.c_str(), found->second.c_str(), 1);
      else
        ::unsetenv(name.c_str());
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  Variables before_;
  std::vector<std::string> names_;
};

struct Ranks {
  int n = 2;
  /// Flags that one rank has more, by rank.
  std::map<int, Args> more = {};
  /// A line of the shell that one rank runs before it joins the others, by rank.
  std::map<int, std::string> before = {};
  Variables environment = {};
};

/// What `olm ARGS` came to on several ranks, and where their process ids were.
class OnRanks {
 public:
  explicit OnRanks(Ranks ranks) : ranks_(std::move(ranks)) {
    std::string script = "#!/bin/sh\necho $$ >" + (folder_ / "pid.$OMPI_COMM_WORLD_RANK") + "\n";
    for (const auto& [rank, flags] : ranks_.more) {
      script += "[ $OMPI_COMM_WORLD_RANK = " + std::to_string(rank) + " ] && set -- \"$@\"";
      for (const std::string& flag : flags) script += " '" + flag + "'";
      script += "\n";
    }
    for (const auto& [rank, line] : ranks_.before)
      script += "[ $OMPI_COMM_WORLD_RANK = " + std::to_string(rank) + " ] && " + line + "\n";
    script += "exec '" + std::string(OLM_PROGRAM) + "' \"$@\"\n";
    write_file(folder_ / "olm", script);
    ::chmod((folder_ / "olm").c_str(), 0700);
  }

  /// Of mpirun, whose own words on what ended are left out: its status is that of a rank.
  Result run(const Args& args, RunOptions options = {}) {
    Variables variables = launch_environment();
    variables["OLM_NUM_THREADS"] = "1";
    for (const auto& [name, value] : ranks_.environment) variables[name] = value;
    const Environment environment(variables);
    Args all = {"mpirun",
                "-q",
                "--timeout",
                "300",
                "--oversubscribe",
                "--bind-to",
                "none",
                "-n",
                std::to_string(ranks_.n),
                folder_ / "olm"};
    all.insert(all.end(), args.begin(), args.end());
    options.program = "/usr/bin/env";
    return run_program(all, options);
  }
  /// The process of a rank; 0 before it began.
  pid_t process(int rank) const {
    const std::string path = folder_ / ("pid." + std::to_string(rank));
    return file_exists(path) ? pid_t(std::atoi(read_file(path).c_str())) : 0;
  }

 private:
  Ranks ranks_;
  TempFolder folder_;
};

inline Result run_ranks(int n, const Args& args, const RunOptions& options = {}) {
  return OnRanks({.n = n}).run(args, options);
}

/// The lines of a text that the program wrote, not mpirun.
inline std::vector<std::string> lines_of_olm(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("olm")) lines.push_back(line);
  return lines;
}

}  // namespace olm::test
