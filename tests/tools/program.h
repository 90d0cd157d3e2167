#pragma once
// Runs the built program as a user would: arguments in, status and output out.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <olm/engine/file.h>
#include <tests/support/temp_folder.h>

namespace olm::test {

namespace fs = std::filesystem;
using Args = std::vector<std::string>;

struct Result {
  int status = -1;  ///< exit status; 128 + signal where one ended the program
  std::string out, err;
};

struct RunOptions {
  rlim_t file_limit = RLIM_INFINITY;  ///< largest file the program may write
  std::string input = {};
  std::string program = OLM_PROGRAM;
  std::string folder = {};  ///< where the program runs; here if empty
  int error_stream = -1;  ///< where standard error goes; a file, whose text is the result's, if -1
  /// Called with the process every few milliseconds while it runs.
  std::function<void(pid_t)> watch = {};
};

/// Starts the program with standard streams in files; returns when it ended.
inline Result run_program(const Args& args, const RunOptions& options = {}) {
  const TempFolder folder;
  write_file(folder / "in", options.input);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int in = ::open((folder / "in").c_str(), O_RDONLY);
    const int out = ::open((folder / "out").c_str(), O_CREAT | O_WRONLY, 0600);
    const int err = ::open((folder / "err").c_str(), O_CREAT | O_WRONLY, 0600);
    ::dup2(in, 0);
    ::dup2(out, 1);
    ::dup2(options.error_stream >= 0 ? options.error_stream : err, 2);
    if (options.file_limit != RLIM_INFINITY) {
      const rlimit limit{options.file_limit, options.file_limit};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (!options.folder.empty() && ::chdir(options.folder.c_str()) != 0) ::_exit(127);
    std::vector<char*> argv{const_cast<char*>(options.program.c_str())};
    for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, options.watch ? WNOHANG : 0) == 0) {
    options.watch(child);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Result result{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                read_file(folder / "out"), read_file(folder / "err")};
  INFO("stderr: ", result.err);
  CHECK(result.status != 127);
  return result;
}

/// Runs and expects status 1 and one line on stderr that holds all of `parts`.
inline void check_refused(const Args& args, const std::vector<std::string>& parts,
                          const RunOptions& options = {}) {
  const Result r = run_program(args, options);
  std::string command;
  for (const std::string& a : args) command += a + " ";
  INFO("command: olm ", command);
  INFO("stderr: ", r.err);
  CHECK(r.status == 1);
  CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  for (const std::string& part : parts) CHECK(r.err.find(part) != std::string::npos);
}

/// A few thousand characters of a small made-up language.
inline std::string small_text(int sentences = 400) {
  static const char* kWords[] = {"ba", "lo", "mira", "tem", "suro", "ke", "nanu", "pio"};
  std::string text;
  uint64_t state = 12345;
  for (int i = 0; i < sentences; ++i) {
    for (int w = 0; w < 4; ++w) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += std::string(w ? " " : "") + kWords[state >> 61];
    }
    text += ".\n";
  }
  return text;
}

/// Arguments that train a tiny model for a moment.
inline Args tiny_training(const std::string& data, const std::string& out, const Args& more = {}) {
  Args args{"train",
            "--data",
            data,
            "--out",
            out,
            "--model.num_layers=1",
            "--model.embed_dim=16",
            "--model.num_heads=2",
            "--context=16",
            "--batch-size=4",
            "--steps=40",
            "--optim.warmup_steps=5",
            "--eval-every=20",
            "--sample-every=20",
            "--checkpoint-every=10",
            "--sample.tokens=20"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

}  // namespace olm::test
