#include "tools/olm/job.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <thread>

#include <olm/engine/comm.h>
#include <olm/nn/training.h>

#include "tools/olm/ranks.h"

namespace olm::tools {

namespace {

/// How long a rank that could not join lets each one before it speak; the first may start late.
constexpr std::chrono::milliseconds kFirstSpeaks{5000}, kOthersSpeak{500};

/// A message as one line that one may print: control characters in it, from a file or a command
/// line, would act on the terminal.
std::string printable(const std::string& message) {
  std::string out;
  for (const char c : message) out += uint8_t(c) < 32 || c == 127 ? '?' : c;
  return out;
}

/// True where this rank is the one to say why it could not join the others. What all find the
/// first says, and the others wait meanwhile, since launchers end all when one has ended; who is
/// left then has found it alone. srun ends nobody: there only what hinders a rank to join may be
/// found by one alone.
bool speaks_for_unjoined(const std::exception& error) {
  const Launch started = launch();
  if (started.rank == 0) return true;
  std::this_thread::sleep_for(kFirstSpeaks + kOthersSpeak * std::min(started.rank, 16));
  return started.launcher != "srun" || dynamic_cast<const dist::CommError*>(&error);
}

/// Says why the job ends, where this rank is the one to say it; the others learn it from it.
int report(const Job& job, const std::exception& error, const std::string& sentence) {
  const dist::Comm world = dist::world();
  const bool joined = world.size() > 1;
  if (joined && !dynamic_cast<const dist::PeerError*>(&error)) dist::fail(sentence);
  if (joined ? !dist::speaks_for(error) : !speaks_for_unjoined(error)) return 1;
  const int number = joined ? world.rank() : launch().rank;
  const std::string rank = joined || number > 0 ? "rank " + std::to_string(number) + ": " : "";
  std::fprintf(stderr, "%s: %s%s\n", job.name.c_str(), rank.c_str(), printable(sentence).c_str());
  std::fflush(stderr);
  return 1;
}

/// Throws, on all ranks, where the command line of one is refused or asks for something else than
/// the others': the first thing that they do together.
void agree(const Job& job) {
  const dist::Comm world = dist::world();
  dist::together(world, [&] { require(job.refused.empty(), job.refused); });
  nn::require_same_on_all_ranks({{"the command", job.name}}, world);
}

}  // namespace

void fill_standard_streams() {
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0; fd = ::open("/dev/null", O_RDWR)) {
    if (fd <= STDERR_FILENO) continue;
    ::close(fd);
    return;
  }
}

int run_job(const Job& job) {
  try {
    const Launch started = launch();
    require(job.on_ranks || started.ranks == 1, "computes in one process, and ", started.launcher,
            " started ", started.ranks, "; run it without");
    if (job.on_ranks) join_ranks();
    agree(job);
    const int status = job.run();
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0,
            "standard output cannot be written");
    if (job.on_ranks) {
      dist::set_place("the end");
      dist::leave();
    }
    return status;
  } catch (const std::bad_alloc& e) {
    return report(job, e, "out of memory");
  } catch (const std::exception& e) {
    return report(job, e, e.what());
  }
}

int refuse_command_line(const std::string& problem) {
  run_job({.name = "olm",
           .on_ranks = launch().ranks > 1,
           .refused = problem + " (olm --help says what there is)"});
  return 2;
}

int answer_command_line(const std::string& name, const std::function<int()>& print) {
  if (launch().ranks == 1 || !dist::is_available()) return print();
  return run_job({name, print, true});
}

}  // namespace olm::tools
