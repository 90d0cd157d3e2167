// Ranks that mpirun starts: tests/ranks/main.cpp.
#include <doctest/doctest.h>

#include <string>

#include <olm/engine/comm.h>
#include "tests/support/mpirun.h"

using namespace olm;
using olm::test::Launched;

namespace {

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
  return n;
}

/// Ranks take others for dead after 1 s, and wait 10 s for those that live, or what `environment`
/// says.
Launched ranks(int n, const std::string& name, const std::string& environment = "",
               const std::string& options = "") {
  return test::mpirun(n, OLM_RANKS " " + name, "OLM_TIMEOUT=1 OLM_PATIENCE=10 " + environment,
                      options);
}

/// Of three ranks those that find rank 1 missing say so, and one of them for all.
void check_absent(const Launched& l, const std::string& sentence) {
  INFO(l.out);
  CHECK(count(l.out, sentence) >= 2);
  CHECK(count(l.out, "rank 0 speaks after ") == 1);
  CHECK(count(l.out, "rank 2 after ") == 1);
  CHECK(count(l.out, "speaks") == 1);
  CHECK(l.seconds < 20);
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
    const Launched l = ranks(3, "throws");
    INFO(l.out);
    CHECK(l.status != 0);
    CHECK(count(l.out, "rank 1 speaks after ") == 1);
    CHECK(count(l.out, ": rank 1: the disk is full\n") == 2);
    CHECK(count(l.out, "speaks") == 1);
    const Launched all = ranks(3, "all_throw");
    INFO(all.out);
    CHECK(count(all.out, " speaks after ") == 1);
  }

  TEST_CASE("a rank that ends, is killed or stopped, or does not come is named by the others") {
    if (!test::has_mpirun()) return;
    check_absent(ranks(3, "exits"), ": barrier, step 7: rank 1 on ");
    // mpirun kills all when one is killed, unless it is to leave the others alone.
    check_absent(ranks(3, "is_killed", "", "--enable-recovery"),
                 ": barrier, step 7: no sign of life for 1 s from rank 1 on ");
    check_absent(ranks(3, "is_stopped"),
                 ": barrier, step 7: no sign of life for 1 s from rank 1 on ");
    check_absent(ranks(3, "never_comes", "OLM_PATIENCE=1.5"),
                 ": barrier, step 7: waited 1.5 s for rank 1 on ");
  }

  TEST_CASE("ranks that disagree on how much travels are told") {
    if (!test::has_mpirun()) return;
    const Launched l = ranks(2, "disagrees");
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
    const std::string silent = ": leave, step 7: no sign of life for 1 s from rank 1 on ";
    const Launched stopped = ranks(3, "is_stopped_at_end");
    check_absent(stopped, silent);
    CHECK(stopped.status != 0);
    check_absent(ranks(3, "never_leaves", "OLM_PATIENCE=1.5"),
                 ": leave, step 7: waited 1.5 s for rank 1 on ");
    const Launched waits = ranks(3, "is_stopped_while_leaving");
    INFO(waits.out);
    CHECK(waits.status != 0);
    CHECK(count(waits.out, "rank 0 speaks after ") == 1);
    CHECK(count(waits.out, silent) >= 1);
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
    const Launched shared = ranks(2, "late_end", "OLM_MPI_LEVEL=3");
    INFO(shared.out);
    CHECK(shared.status == 0);
    CHECK(count(shared.out, "ended") == 2);
    const Launched alone = ranks(2, "late_end", "OLM_MPI_LEVEL=0");
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
    if (test::has_mpirun())
      CHECK(text.find("Open MPI ") == 0);
    else
      CHECK(text.find("none: ") == 0);
    const Launched doctor = test::run_shell(OLM_PROGRAM " doctor");
    CHECK(count(doctor.out, "\nranks             " + text + "\n") == 1);
  }
}
