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

  TEST_CASE("a mixture trains from the program, says how its experts fared, and is compared") {
    const TempFolder folder;
    write_file(folder / "text.txt", small_text());
    const auto train = [&](const char* name, const Args& more) {
      Args args = tiny_training(folder / "text.txt", folder / name, {"--steps=10"});
      args.insert(args.end(), more.begin(), more.end());
      const Result r = run_program(args);
      INFO(r.err);
      REQUIRE(r.status == 0);
      return r.out;
    };
    const std::string dense = train("dense", {"--model.family=llama"});
    const std::string even =
        train("even", {"--model.family=mixtral", "--model.num_experts=4", "--model.top_k=4"});
    const std::string idle = train("idle", {"--model.family=mixtral", "--model.num_experts=90",
                                            "--model.top_k=1", "--model.moe_intermediate_size=4"});
    CHECK(dense.find("experts") == std::string::npos);
    CHECK(even.find("entropy of the load 1.00 (1 is even), 0 of 4 idle at the last step\n") !=
          std::string::npos);
    CHECK(idle.find("of 90 idle at the last step; load_balancing_coefficient") !=
          std::string::npos);
    CHECK(read_file(folder / "idle/report.html").find("<h2>Experts</h2>") != std::string::npos);
    const Result r = run_program({"ablate", folder / "dense", folder / "even", folder / "idle",
                                  "--data", folder / "text.txt", "--steps=4", "--batch-size=4",
                                  "--sample-every=0", "--out", folder / "compared"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    const std::string report = read_file(folder / "compared/report.html");
    const std::string balance =
        report.substr(std::min(report.find("Expert balance"), report.size()));
    CHECK(balance.find("even</text>") < balance.find("</svg>"));
    CHECK(balance.find("idle</text>") < balance.find("</svg>"));
    CHECK(balance.find("dense</text>") > balance.find("</svg>"));
    const Json variants = read_json(folder / "compared/results.json").at("variants");
    CHECK(variants.at(0).at("expert_entropy").is_null());
    CHECK(variants.at(1).at("expert_entropy").as_double() == doctest::Approx(1));
    CHECK(variants.at(2).at("expert_entropy").as_double() < 1);
  }
}
