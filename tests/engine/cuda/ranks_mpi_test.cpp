// Ranks on cards that mpirun starts: tests/ranks/main.cpp.
#include <doctest/doctest.h>

#include <string>

#include <olm/engine/cuda/report.h>
#include "tests/support/mpirun.h"
#include "tests/support/temp_folder.h"

using namespace olm;
using olm::test::Launched;

namespace {

/// Three cards, or an emulator, which has some in each process.
bool has_cards() {
  const auto cards = cuda_backend::cards();
  return cards.size() >= 3 || (!cards.empty() && cards[0].name.starts_with("emulated"));
}

/// Of mpirun: it kills all when one is killed, unless it is to leave the others alone.
constexpr const char* kLeavesOthers = "--enable-recovery";

/// Three ranks that wait for others for minutes, or as long as `environment` says. The one that
/// speaks for all does not end before another has said what became of it.
Launched ranks(const std::string& name, const std::string& environment = "",
               const std::string& options = "") {
  const test::TempFolder folder;
  return test::mpirun(
      3, OLM_RANKS " " + name,
      "OLM_RANK_DEVICE=cuda OLM_REPORTS=1 OLM_FOLDER=" + folder.path() + " " + environment,
      options);
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
  return n;
}

}  // namespace

TEST_SUITE("engine/cuda/ranks_mpi") {
  TEST_CASE("operations among cards of several processes") {
    if (!test::has_mpirun() || !has_cards()) return;
    const Launched l = test::mpirun(3, OLM_RANKS " operations", "OLM_RANK_DEVICE=cuda");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "ended") == 3);
  }

  TEST_CASE("a rank that ends first has given what the others wait for") {
    if (!test::has_mpirun() || !has_cards()) return;
    const Launched l = ranks("ends_unseen");
    INFO(l.out);
    CHECK(l.status == 0);
    CHECK(count(l.out, "ended") == 3);
  }

  TEST_CASE("what a card waits for ends where a rank fails, is killed, ends or does not come") {
    if (!test::has_mpirun() || !has_cards()) return;
    const struct {
      const char *name, *sentence, *environment = "", *options = "";
    } cases[] = {
        {"throws", ": rank 1: the disk is full\n"},
        {"is_killed", ": all_reduce, step 7: no sign of life for 3 s from rank 1 on ",
         "OLM_TIMEOUT=3", kLeavesOthers},
        {"exits", ": all_reduce, step 7: rank 1 on "},
        {"never_comes", ": all_reduce, step 7: waited 6 s for other ranks, alive but not coming",
         "OLM_PATIENCE=6"}};
    for (const auto& [name, sentence, environment, options] : cases) {
      const Launched l = ranks(name, environment, options);
      INFO(l.out);
      CHECK(count(l.out, sentence) >= 2);
      CHECK(count(l.out, "speaks") == 1);
      CHECK(l.status != test::kOutOfTime);
    }
  }
}
