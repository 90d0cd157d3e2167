// A rank of a test: mpirun -n N olm_ranks CASE. Says on one line what became of it. With
// OLM_RANK_DEVICE=cuda tensors are on cards.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <olm/engine/backend.h>
#include <olm/engine/comm.h>
#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/cuda/report.h>
#include <olm/engine/raw.h>
#include "tests/support/comm_cases.h"

using namespace olm;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void sleep_forever() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

/// cpu, or this rank's card.
Device device() {
  const char* name = std::getenv("OLM_RANK_DEVICE");
  if (!name) return cpu;
  const size_t cards = cuda_backend::cards().size();
  return parse_device(name).kind == DeviceKind::cuda && cards > 0
             ? cuda(dist::local_rank() % int(cards))
             : parse_device(name);
}

/// Returns when all ranks have called it: a barrier, and on cards a sum.
void meet(const dist::Comm& comm) {
  if (device() == cpu) return comm.barrier();
  const Tensor x = ones({1000}, {.device = device()});
  comm.all_reduce(x).wait();
  synchronize(device());
}

void meet_for_ever(const dist::Comm& comm) {
  for (;;) meet(comm);
}

void operations(const dist::Comm& comm) {
  test::set_case_device(device());
  for (const test::CommCase& c : test::comm_cases()) {
    if (device() != cpu && (c.name.find("f64") != std::string::npos || c.name == "bad calls"))
      continue;
    try {
      c.run(comm);
    } catch (const dist::CommError&) {
      throw;
    } catch (const Error& e) {
      throw Error(c.name, ": ", e.what());
    }
  }
  require(dist::local_size() == comm.size() && dist::local_rank() == comm.rank(),
          "wanted all ranks on this machine");
  require(int(dist::hosts().size()) == comm.size(), "wanted a host for each rank");
  require(!dist::asked_to_stop(), "nobody asked to stop");
  const Tensor x = ones({1}, {.device = device()});
  const uint64_t version = x.version();
  const dist::Work work = comm.all_reduce(x, {.ordered = false});
  require(comm.size() == 1 || x.version() > version, "x has the version that it had before");
  work.wait();
  comm.barrier();
  if (comm.rank() == comm.size() - 1) dist::ask_all_to_stop();
  const Clock::time_point begin = Clock::now();
  while (!dist::asked_to_stop()) {
    require(seconds_since(begin) < 60, "the wish to stop is lost");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void exits(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) std::exit(0);
  meet_for_ever(comm);
}

void is_killed(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) raise(SIGKILL);
  meet_for_ever(comm);
}

void is_stopped(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) raise(SIGSTOP);
  meet_for_ever(comm);
}

void throws(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) throw Error("the disk is full");
  meet_for_ever(comm);
}

void all_throw(const dist::Comm& comm) {
  meet(comm);
  throw Error("all find the same");
}

void never_comes(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) sleep_forever();
  meet_for_ever(comm);
}

/// Ranks want parts of sizes that differ; small ones, since of large ones Open MPI writes past the
/// end.
void disagrees(const dist::Comm& comm) {
  const Tensor x = zeros({400});
  dist::Counts counts(size_t(comm.size()), 0);
  counts[0] = 400;
  if (comm.rank() == 0) {
    comm.all_gather(x, counts, x).wait();
    meet_for_ever(comm);
  }
  counts[0] = 399;
  comm.all_gather(zeros({0}), counts, zeros({399})).wait();
  meet_for_ever(comm);
}

/// A rank ends much later than the others, and all end well.
void late_end(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
}

/// All return when the last has come, and nothing follows.
void leaves(const dist::Comm& comm) {
  meet(comm);
  // By the clock that all processes of the machine share.
  const Clock::time_point late = Clock::now() + std::chrono::milliseconds(500);
  const std::vector<std::string> all =
      comm.all_gather(std::to_string(late.time_since_epoch().count()));
  const Clock::time_point until(Clock::duration(std::stoll(all[1])));
  if (comm.rank() == 1) std::this_thread::sleep_until(until);
  dist::leave();
  require(Clock::now() >= until, "rank 1 had not left");
  dist::leave();
  try {
    comm.barrier();
  } catch (const dist::CommError& e) {
    std::printf("%s\n", e.what());
    return;
  }
  throw Error("wanted no barrier after the end");
}

void is_stopped_at_end(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) raise(SIGSTOP);
  dist::leave();
}

/// One that waits in leave() for another that has much to do.
void is_stopped_while_leaving(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1)
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      raise(SIGSTOP);
    }).detach();
  if (comm.rank() == 2) sleep_forever();
  dist::leave();
}

void never_leaves(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() == 1) sleep_forever();
  dist::leave();
}

/// A limit may become shorter than signs of life were apart before.
void shortens_limit(const dist::Comm& comm) {
  std::this_thread::sleep_for(std::chrono::milliseconds(3500));
  meet(comm);
  dist::init({.timeout = 3});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  meet(comm);
}

/// A child that a rank forks is none, and its end is not that of the rank.
void forks(const dist::Comm& comm) {
  meet(comm);
  const Tensor x = ones({1});
  dist::Work work;  // which ends after the child
  if (comm.rank() == 0) work = comm.all_reduce(x);
  const pid_t child = fork();
  if (child == 0) {
    for (const auto& operation : {std::function([&] { comm.barrier(); }), std::function([&] {
                                    comm.rank() == 0 ? work.wait() : comm.all_reduce(x).wait();
                                  })})
      try {
        operation();
        std::_Exit(1);
      } catch (const dist::CommError& e) {
        std::printf("%s\n", e.what());
      }
    std::exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  require(status == 0, "the child ended with status ", status);
  if (comm.rank() != 0) work = comm.all_reduce(x);
  work.wait();
  meet(comm);
}

/// Rank 0 ends without having looked at what it gives, which the others take much later.
void ends_unseen(const dist::Comm& comm) {
  meet(comm);
  if (comm.rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  const Tensor x = full({100000}, comm.rank() + 1, {.device = device()});
  const dist::Work work = comm.broadcast(x, 0);
  if (comm.rank() == 0) return;
  work.wait();
  const Tensor got = raw::to(x, cpu);
  require(got.data<float>()[99999] == 1, "wanted what rank 0 gave");
}

void measure(const dist::Comm& comm) {
  const auto report = [&](const char* what, double seconds, int times) {
    if (comm.rank() == 0) std::printf("%s: %.4f ms\n", what, seconds / times * 1e3);
  };
  for (int round = 0; round < 3; ++round) {
    comm.barrier();
    Clock::time_point begin = Clock::now();
    for (int i = 0; i < 2000; ++i) comm.barrier();
    report("barrier", seconds_since(begin), 2000);
    const Tensor x = zeros({25 << 18}), y = zeros({25 << 18});
    for (const bool ordered : {true, false}) {
      comm.barrier();
      begin = Clock::now();
      for (int i = 0; i < 20; ++i) comm.all_reduce(x, {.ordered = ordered}).wait();
      report(ordered ? "all_reduce of 25 MiB in order" : "all_reduce of 25 MiB in any order",
             seconds_since(begin), 20);
    }
    comm.barrier();
    begin = Clock::now();
    // Nobody waits while it goes on.
    dist::Work work = comm.all_reduce(x);
    while (!work.done()) std::this_thread::sleep_for(std::chrono::microseconds(200));
    report("all_reduce of 25 MiB that nobody waits for", seconds_since(begin), 1);
  }
}

/// Computing beside a thread that has nothing to do, or an operation that waits for others.
void idle(const dist::Comm& comm) {
  for (const bool waiting : {false, true}) {
    const Tensor x = zeros({1});
    dist::Work work;
    if (waiting && comm.rank() == 0) work = comm.all_reduce(x);
    timespec before{}, after{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    std::this_thread::sleep_for(std::chrono::seconds(2));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const double used =
        double(after.tv_sec - before.tv_sec) + 1e-9 * double(after.tv_nsec - before.tv_nsec);
    if (comm.rank() == 0)
      std::printf("%s: %.2f %% of a core\n", waiting ? "operation under way" : "idle",
                  used / 2 * 100);
    if (waiting && comm.rank() != 0) work = comm.all_reduce(x);
    work.wait();
  }
}

const std::map<std::string, void (*)(const dist::Comm&)> kCases = {
    {"operations", operations},
    {"exits", exits},
    {"is_killed", is_killed},
    {"is_stopped", is_stopped},
    {"throws", throws},
    {"all_throw", all_throw},
    {"never_comes", never_comes},
    {"disagrees", disagrees},
    {"late_end", late_end},
    {"leaves", leaves},
    {"is_stopped_at_end", is_stopped_at_end},
    {"is_stopped_while_leaving", is_stopped_while_leaving},
    {"never_leaves", never_leaves},
    {"shortens_limit", shortens_limit},
    {"forks", forks},
    {"ends_unseen", ends_unseen},
    {"measure", measure},
    {"idle", idle},
};

/// Rank 0 tries to join one that does not, and tries again.
int joins_alone() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (rank && std::string(rank) == "1") sleep_forever();
  for (int i = 0; i < 2; ++i) try {
      dist::init({.timeout = 0.5});
    } catch (const dist::CommError& e) {
      std::printf("%s\n", e.what());
    }
  return 1;
}

/// A program that uses MPI itself, and asks it for so much of threads; 0 is MPI_THREAD_SINGLE.
struct OwnMpi {
  explicit OwnMpi(const char* level) {
    if (!level) return;
    library = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
    const auto init = reinterpret_cast<int (*)(int*, char***, int, int*)>(
        library ? dlsym(library, "MPI_Init_thread") : nullptr);
    int got = 0;
    if (init) init(nullptr, nullptr, std::atoi(level), &got);
  }
  void end() {
    if (library) reinterpret_cast<int (*)()>(dlsym(library, "MPI_Finalize"))();
  }
  void* library = nullptr;
};

double number_of(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atof(text) : otherwise;
}

/// Says what became of this rank. mpirun ends all ranks once the first that failed has ended: that
/// is the one that speaks for all, and it waits for so many others as OLM_REPORTS says to have said
/// it too, each by a file in the folder OLM_FOLDER.
void report(int rank, bool speaks, double seconds, const std::string& sentence) {
  std::printf("rank %d%s after %.1f s: %s\n", rank, speaks ? " speaks" : "", seconds,
              sentence.c_str());
  const char* folder = std::getenv("OLM_FOLDER");
  if (!folder) return;
  if (!speaks) std::ofstream(std::string(folder) + "/" + std::to_string(rank));
  const auto reports = [&] {
    return std::distance(std::filesystem::directory_iterator(folder), {});
  };
  const Clock::time_point begin = Clock::now();
  while (speaks && double(reports()) < number_of("OLM_REPORTS", 0) && seconds_since(begin) < 60)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // mpirun may end this rank once it has spoken
  if (argc == 2 && argv[1] == std::string("joins_alone")) return joins_alone();
  const auto found = argc == 2 ? kCases.find(argv[1]) : kCases.end();
  if (found == kCases.end()) {
    std::fprintf(stderr, "olm_ranks: wanted the name of a case\n");
    return 2;
  }
  size_t& piece = dist::detail::piece_bytes;
  piece = size_t(number_of("OLM_PIECE", double(piece)));
  OwnMpi own(std::getenv("OLM_MPI_LEVEL"));
  int rank = -1;
  Clock::time_point begin = Clock::now();
  try {
    // Processes take their time to begin where others compute: limits hold from here on.
    const dist::Comm comm = dist::init({.timeout = 300});
    rank = comm.rank();
    comm.barrier();
    dist::init(
        {.timeout = number_of("OLM_TIMEOUT", 300), .patience = number_of("OLM_PATIENCE", 300)});
    comm.barrier();
    begin = Clock::now();
    dist::set_place("step 7");
    found->second(comm);
    std::printf("rank %d of %d: ended\n", rank, comm.size());
    own.end();
    return 0;
  } catch (const Error& e) {
    dist::fail(e.what());
    report(rank, dist::speaks_for(e), seconds_since(begin), e.what());
    return 1;
  }
}
