// olm bench on tiny shapes: that it runs, what it writes, and what it refuses. No figure is judged.
#include <cmath>

#include <olm/engine/json.h>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

Json printed_json(const Args& args) {
  const Result r = run_program(args);
  INFO("stderr: ", r.err);
  REQUIRE(r.status == 0);
  return Json::parse(r.out, "what olm bench printed");
}

}  // namespace

TEST_SUITE("tools/bench") {
  TEST_CASE("steps are timed") {
    const TempFolder folder;
    for (const char* dtype : {"f32", "bf16"}) {
      const std::string file = folder / "step.json";
      const Result r = run_program({"bench", "step", "--preset", "tiny", "--dtype", dtype,
                                    "--threads", "1", "--steps", "3", "--json", file});
      INFO(r.err);
      REQUIRE(r.status == 0);
      CHECK(r.out.find("ms a step") != std::string::npos);
      const Json j = read_json(file);
      CHECK(j.at("what").as_string() == "olm_train_step");
      CHECK(j.at("config").as_string() == "tiny");
      CHECK(j.at("dtype").as_string() == dtype);
      CHECK(j.at("threads").as_int() == 1);
      // Two layers of 4 · d² and 8 · d², three kinds of norms, a table that is also the head, and
      // positions.
      CHECK(j.at("params").as_int() == 2 * 12 * 32 * 32 + 5 * 2 * 32 + 65 * 32 + 16 * 32);
      CHECK(j.at("steps").as_int() == 3);
      CHECK(j.at("step_ms").as_double() >= j.at("min_ms").as_double());
      CHECK(j.at("step_ms").as_double() <= j.at("max_ms").as_double());
      // 3 · 32 tokens · (2 · weights in products + 4 · layers · T · d)
      const double flop = 3.0 * 32 * (2 * (2 * 12 * 32 * 32 + 65 * 32) + 4 * 2 * 16 * 32);
      CHECK(std::abs(j.at("model_gflop").as_double() - flop / 1e9) < 0.006);
      CHECK(j.at("loss_last").as_double() < j.at("loss_first").as_double());
      CHECK(std::abs(j.at("loss_first").as_double() - std::log(65.0)) < 0.2);
    }
  }

  TEST_CASE("recomputing gives the same losses") {
    const Args args{"bench", "step", "--preset", "tiny", "--steps", "2", "--json", "-"};
    Args recomputing = args;
    recomputing.push_back("--recompute");
    const Json a = printed_json(args), b = printed_json(recomputing);
    CHECK_FALSE(a.at("recompute").as_bool());
    CHECK(b.at("recompute").as_bool());
    CHECK(a.at("loss_last") == b.at("loss_last"));
  }

  TEST_CASE("wrong flags of step are refused") {
    const auto refuse = [](const Args& more, const std::string& part) {
      Args args{"bench", "step", "--preset", "tiny", "--steps", "1"};
      args.insert(args.end(), more.begin(), more.end());
      check_refused(args, {"olm bench step: ", part});
    };
    check_refused({"bench", "step", "--preset", "XL"}, {"--preset: wants S, M, L or tiny", "XL"});
    refuse({"--dtype", "f16"}, "--dtype: wants f32 or bf16, got \"f16\"");
    refuse({"--threads=-1"}, "--threads: wants 1 to 4096, got -1");
    check_refused({"bench", "step", "--steps", "0"}, {"--steps: wants at least 1, got 0"});
    refuse({"--budget=-1"}, "--budget: wants 0 seconds or more, got -1");
    refuse({"--gate=-1"}, "--gate: wants a fraction");
    refuse({"--json", "/nowhere/at/all.json"}, "/nowhere/at/all.json");
    for (const Args& args : {Args{"bench"}, Args{"bench", "step", "--colour"}})
      CHECK(run_program(args).status == 2);
  }
}
