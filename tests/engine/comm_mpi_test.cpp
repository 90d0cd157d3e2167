// Ranks that mpirun starts: tests/ranks/main.cpp.
#include <doctest/doctest.h>

#include <future>
#include <string>
#include <vector>

#include <olm/engine/comm.h>
#include "tests/support/mpirun.h"
#include "tests/support/temp_folder.h"

using namespace olm;
using olm::test::Launched;

namespace {

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
  return n;
}

/// Ranks that wait for others for minutes, or as long as `environment` says. The one that speaks
/// for all does not end before so many others have said what became of them.
Launched ranks(int n, const std::string& name, int others = 0, const std::string& environment = "",
               const std::string& options = "") {
  const test::TempFolder folder;
  return test::mpirun(
      n, OLM_RANKS " " + name,
      "OLM_FOLDER=" + folder.path() + " OLM_REPORTS=" + std::to_string(others) + " " + environment,
      options);
}

/// A case of three ranks of which rank 1 is missed.
struct Absence {
  std::string name, sentence, environment = "", options = "";
};
const std::string kShortTimeout = "OLM_TIMEOUT=3", kShortPatience = "OLM_PATIENCE=3";
const std::string kSilent = "no sign of life for 3 s from rank 1 on ";
const std::string kLate = "waited 3 s for rank 1 on ";

/// Those that find it missing say so, and one of them for all. The cases run at once, since most of
/// it is waiting; returns their status.
std::vector<int> check_absent(const std::vector<Absence>& cases) {
  std::vector<std::future<Launched>> runs;
  for (const Absence& c : cases)
    runs.push_back(std::async(std::launch::async,
                              [&c] { return ranks(3, c.name, 1, c.environment, c.options); }));
  std::vector<int> statuses;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Launched l = runs[i].get();
    INFO(cases[i].name, ": ", l.out);
    CHECK(count(l.out, cases[i].sentence) >= 2);
    CHECK(count(l.out, "rank 0 speaks after ") == 1);
    CHECK(count(l.out, "rank 2 after ") == 1);
    CHECK(count(l.out, "speaks") == 1);
    CHECK(l.status != test::kOutOfTime);
    statuses.push_back(l.status);
  }
  return statuses;
}

}  // namespace

TEST_SUITE("engine/comm_mpi") {
  TEST_CASE("operations among ranks that mpirun started") {
    if (!test::has_mpirun()) return;
    // Four send messages in small pieces, as large ones travel.
    for (const auto& [n, pieces] : {std::pair(2, ""), std::pair(4, "OLM_PIECE=1000")}) {
      const Launched l = test::mpirun(n, OLM_RANKS " operations", pieces);
      INFO(l.out);
      CHECK(l.status == 0);
      CHECK(count(l.out, "ended") == n);
    }
  }

  TEST_CASE("one rank needs no MPI") {
    if (!test::has_mpirun()) return;
    const Launched l = test::mpirun(1, OLM_RANKS " operations", "OLM_MPI_LIBRARY=/none");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "rank 0 of 1: ended") == 1);
  }

  TEST_CASE("a rank that fails ends all, and its sentence is said once") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(3, "throws", 2);
    INFO(l.out);
    CHECK(l.status != 0);
    CHECK(count(l.out, "rank 1 speaks after ") == 1);
    CHECK(count(l.out, ": rank 1: the disk is full\n") == 2);
    CHECK(count(l.out, "speaks") == 1);
    const Launched all = ranks(3, "all_throw", 2);
    INFO(all.out);
    CHECK(count(all.out, " speaks after ") == 1);
  }

  TEST_CASE("a rank that ends, is killed or stopped, or does not come is named by the others") {
    if (!test::has_mpirun()) return;
    const std::string at = ": barrier, step 7: ";
    check_absent({{"exits", at + "rank 1 on "},
                  // mpirun kills all when one is killed, unless it is to leave the others alone.
                  {"is_killed", at + kSilent, kShortTimeout, "--enable-recovery"},
                  {"is_stopped", at + kSilent, kShortTimeout},
                  {"never_comes", at + kLate, kShortPatience}});
  }

  TEST_CASE("ranks that disagree on how much travels are told") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "disagrees", 1);
    INFO(l.out);
    CHECK(l.status != 0);
    CHECK(count(l.out, "rank 1 speaks after ") == 1);
    CHECK(count(l.out, "all_gather, step 7: wanted 1596 bytes from rank 0, got more\n") == 2);
  }

  TEST_CASE("ranks leave together, also where they come late") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "late_end");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "ended") == 2);
  }

  TEST_CASE("ranks that leave name one that does not") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(3, "leaves");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "barrier, step 7: this rank has left the others\n") == 3);
    CHECK(count(l.out, "ended") == 3);
    const std::string at = ": leave, step 7: ";
    for (const int status : check_absent({{"is_stopped_at_end", at + kSilent, kShortTimeout},
                                          {"never_leaves", at + kLate, kShortPatience}}))
      CHECK(status != 0);
    const Launched waits = ranks(3, "is_stopped_while_leaving", 0, kShortTimeout);
    INFO(waits.out);
    CHECK(waits.status != 0);
    CHECK(waits.status != test::kOutOfTime);
    CHECK(count(waits.out, "rank 0 speaks after ") == 1);
    CHECK(count(waits.out, at + kSilent) >= 1);
  }

  TEST_CASE("limits become shorter under way") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "shortens_limit");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "ended") == 2);
  }

  TEST_CASE("a child that a rank forks is none") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "forks");
    INFO(l.out);
    CHECK(l.status == 0);
    for (const char* name : {"barrier", "all_reduce"})
      CHECK(count(l.out, std::string(name) + ": this process was forked from a rank") == 2);
    CHECK(count(l.out, "ended") == 2);
  }

  TEST_CASE("ranks that cannot be joined stay so") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "joins_alone");
    INFO(l.out);
    CHECK(l.status == 1);
    CHECK(count(l.out, "init: waited 0.5 s for other ranks to call it\n") == 2);
  }

  TEST_CASE("a program that uses MPI itself is joined where it shares it with other threads") {
    if (!test::has_mpirun()) return;
    const Launched shared = ranks(2, "late_end", 0, "OLM_MPI_LEVEL=3");
    INFO(shared.out);
    CHECK(shared.status == 0);
    CHECK(count(shared.out, "ended") == 2);
    const Launched alone = ranks(2, "late_end", 0, "OLM_MPI_LEVEL=0");
    INFO(alone.out);
    CHECK(alone.status != 0);
    CHECK(count(alone.out, "wanted less than MPI_THREAD_MULTIPLE") >= 1);
  }

  TEST_CASE("an MPI that is missing, or another, is named") {
    const auto joins = [](const std::string& environment) {
      return test::run_shell("OMPI_COMM_WORLD_SIZE=2 " + environment + " " OLM_RANKS " operations");
    };
    if (!dist::is_available()) {
      const Launched l = joins("");
      INFO(l.out);
      CHECK(count(l.out, "init: 2 ranks were started, and this libolm was built without") == 1);
      return;
    }
    const std::string other = "OLM_MPI_LIBRARY=" OLM_OTHER_MPI " OLM_OTHER_MPI_VERSION=";
    const struct {
      std::string environment, sentence;
    } cases[] = {
        {"OLM_MPI_LIBRARY=/none/libmpi.so", "wanted Open MPI's library"},
        {other + "'MPICH Version: 4.0.2'", "wanted Open MPI 4 or 5, got MPICH Version: 4.0.2 in /"},
        {other + "'Open MPI v3.1.3, package: x'",
         "wanted Open MPI 4 or 5, got Open MPI v3.1.3 in /"},
        {other + "'Open MPI v4.1.4, package: x'",
         "the library has no MPI_Initialized, which Open MPI 4 and 5 have"},
        {"OLM_MPI_LIBRARY=libm.so.6", "the library has no MPI_Get_library_version"}};
    for (const auto& [environment, sentence] : cases) {
      const Launched l = joins(environment);
      INFO(l.out);
      CHECK(l.status == 1);
      CHECK(count(l.out, sentence) == 1);
    }
  }

  TEST_CASE("ranks that another launcher started are told that they are alone") {
    if (!test::has_mpirun()) return;
    const Launched l = test::run_shell("PMI_RANK=1 PMI_SIZE=2 " OLM_RANKS " operations");
    INFO(l.out);
    CHECK(l.status == 1);
    CHECK(count(l.out, "init: 2 ranks were started, says PMI_SIZE, but Open MPI ") == 1);
  }

  TEST_CASE("what carries tensors between ranks is described") {
    const std::string text = dist::describe();
    INFO(text);
    // Where there is no mpirun, there may be the library.
    const bool none = text.starts_with("none: ");
    CHECK(none != text.starts_with("Open MPI "));
    if (test::has_mpirun()) CHECK_FALSE(none);
    if (!dist::is_available()) CHECK(none);
    const Launched doctor = test::run_shell(OLM_PROGRAM " doctor");
    CHECK(count(doctor.out, "\nranks             " + text + "\n") == 1);
  }
}
