// What a report says of mixtures of experts.
#include <olm/nn/training.h>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

/// The line of a step with the loads of two routers, of which the second has idle experts.
void add_loads(Json& line) {
  Json& experts = line["experts"];
  for (const char* router : {"blocks.1.stack.0.router", "blocks.1.<b>.router"}) {
    const bool even = std::string(router).ends_with("0.router");
    experts[router]["tokens"] =
        Json(even ? std::vector<int64_t>{8, 8, 8, 8} : std::vector<int64_t>{32, 0, 0, 0});
    experts[router]["entropy"] = even ? 1.0 : 0.0;
    experts[router]["imbalance"] = even ? 1.0 : 4.0;
    experts[router]["idle"] = even ? 0 : 3;
    experts[router]["load_balancing_loss"] = 0.01;
  }
  line["load_balancing_loss"] = 0.02;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_SUITE("tools/expert_report") {
  TEST_CASE("a report shows how even the loads of experts are, and none where there are none") {
    const TempFolder folder;
    write_file(folder / "text.txt", small_text());
    const std::string run = folder / "run";
    REQUIRE(run_program(tiny_training(folder / "text.txt", run)).status == 0);
    CHECK(read_file(run + "/report.html").find("Experts") == std::string::npos);
    std::string log;
    for (Json line : nn::JsonLines::read(run + "/metrics.jsonl")) {
      if (line.at("step").as_int() % 10 == 0) add_loads(line);
      log += line.dump() + "\n";
    }
    write_file(run + "/metrics.jsonl", log);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    const std::string report = read_file(run + "/report.html");
    for (const char* part : {"<h2>Experts</h2>", "Expert balance", "mean of layers",
                             "least even layer", "Auxiliary losses", "Load of each expert",
                             "blocks.1.stack.0.router", "blocks.1.&lt;b&gt;.router"})
      CHECK_MESSAGE(report.find(part) != std::string::npos, part);
    CHECK(count_of(report, "<rect") == 8);
    CHECK(count_of(report, "fill='#dc2626'") == 3);
    CHECK(count_of(report, "1.00 of the even share") == 4);
    CHECK(count_of(report, "4.00 of the even share") == 1);
  }
}
