#include "tools/olm/job.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <thread>

#include <olm/engine/comm.h>

#include "tools/olm/ranks.h"

namespace olm::tools {

namespace {

/// How long a rank that could not join lets the first one speak.
constexpr std::chrono::seconds kFirstSpeaks{2};

/// A message as one line that one may print: control characters in it, from a file or a command
/// line, would act on the terminal.
std::string printable(const std::string& message) {
  std::string out;
  for (const char c : message) out += uint8_t(c) < 32 || c == 127 ? '?' : c;
  return out;
}

/// True where ranks have not joined and this one is to say why: the first, or, of a machine that
/// lacks what the others have, one that the launcher has not ended soon, as it does all once the
/// first has failed.
bool speaks_alone(const std::exception& error) {
  if (launch().rank == 0) return true;
  if (!dynamic_cast<const dist::CommError*>(&error)) return false;
  std::this_thread::sleep_for(kFirstSpeaks);
  return true;
}

/// Says why the job ends, where this rank is the one to say it; the others learn it from it.
int report(const Job& job, const std::exception& error, const std::string& sentence) {
  const dist::Comm world = dist::world();
  const bool joined = world.size() > 1;
  if (joined && !dynamic_cast<const dist::PeerError*>(&error)) dist::fail(sentence);
  if (joined ? !dist::speaks_for(error) : !speaks_alone(error)) return 1;
  const int number = joined ? world.rank() : launch().rank;
  const std::string rank = joined || number > 0 ? "rank " + std::to_string(number) + ": " : "";
  std::fprintf(stderr, "%s: %s%s\n", job.name.c_str(), rank.c_str(), printable(sentence).c_str());
  std::fflush(stderr);
  return 1;
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
    const int status = job.run();
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0,
            "standard output cannot be written");
    return status;
  } catch (const std::bad_alloc& e) {
    return report(job, e, "out of memory");
  } catch (const std::exception& e) {
    return report(job, e, e.what());
  }
}

int refuse_command_line(const std::string& problem) {
  const auto refuse = [&]() -> int { fail(problem, " (olm --help says what there is)"); };
  // Ranks whose command lines are in order are told by the first thing that all do together.
  run_job({"olm",
           [&] {
             dist::together(dist::world(), refuse);
             return 0;
           },
           launch().ranks > 1});
  return 2;
}

}  // namespace olm::tools
