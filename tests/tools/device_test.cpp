// Devices of the olm program: what names one, what is refused, and, with a card, what it computes.
#include <olm/engine/cuda/report.h>
#include <olm/engine/json.h>

#include <tests/tools/runs.h>

using namespace olm;
using namespace olm::test;

namespace {

bool has_card() { return cuda_backend::why_not(0).empty(); }

/// Fifty steps of a dense model, or of a mixture of experts.
Args training(const std::string& data, const std::string& out, bool mixture, const Args& more) {
  Args args = tiny_training(data, out, {"--steps=50", "--sample.temperature=0"});
  if (mixture)
    args.insert(args.end(), {"--model.family=mixtral", "--model.num_experts=4", "--model.top_k=2",
                             "--model.num_kv_heads=1", "--model.intermediate_size=16"});
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

}  // namespace

TEST_SUITE("tools/device") {
  TEST_CASE("a device that there is nowhere is refused") {
    const Corpus c;
    const std::string run = c.folder / "run";
    for (const char* name : {"gpu", "meta", "cuda:x", "cuda:-1"}) {
      const std::string flag = std::string("--device=") + name, got = std::string("\"") + name;
      check_refused(tiny_training(c.data, run, {flag}),
                    {"train.device", "wants cpu, cuda or cuda:N", got});
      check_refused({"bench", "softmax", "--shape=2x3", flag}, {"--device", "cuda:N", got});
      check_refused({"bench", "step", "--preset=tiny", flag}, {"--device", "cuda:N", got});
      check_refused({"sample", run, flag}, {"--device", "cuda:N", got});
      check_refused({"eval", run, "--data", c.data, flag}, {"--device", "cuda:N", got});
    }
    CHECK_FALSE(fs::exists(run));
  }

  TEST_CASE("without a card --device cuda says what is missing, and leaves nothing behind") {
    if (has_card()) return;
    const Corpus c;
    const std::string run = c.folder / "run", why = cuda_backend::why_not(0);
    for (const Args& args : {tiny_training(c.data, run, {"--device", "cuda"}),
                             Args{"bench", "softmax", "--shape=2x3", "--device", "cuda"},
                             Args{"bench", "step", "--preset=tiny", "--device", "cuda"},
                             Args{"sample", run, "--device", "cuda"},
                             Args{"eval", run, "--data", c.data, "--device", "cuda"}})
      check_refused(args, {"cuda:0", why});
    check_refused({"sample", run, "--device", "cuda:7"}, {"cuda:7"});
    CHECK_FALSE(fs::exists(run));
  }

  TEST_CASE("a run says and keeps where it computes, and a flag moves it when it goes on") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const Result r = run_program(tiny_training(c.data, run));
    REQUIRE(r.status == 0);
    CHECK(r.out.find("\ndevice: cpu, ") != std::string::npos);
    CHECK(read_file(run + "/report.html").find("cpu, ") != std::string::npos);
    std::string config = read_file(run + "/run.toml");
    const size_t at = config.find("device = \"cpu\"");
    REQUIRE(at != std::string::npos);
    write_file(run + "/run.toml", config.replace(at, 14, "device = \"cuda:99\""));
    check_refused({"train", "--resume", run}, {"cuda:99"});
    REQUIRE(run_program({"train", "--resume", run, "--device=cpu", "--steps=41"}).status == 0);
    CHECK(read_file(run + "/run.toml").find("device = \"cpu\"") != std::string::npos);
  }

  TEST_CASE("doctor says what the build has for CUDA, and what the machine does") {
    const std::string out = run_program({"doctor"}).out;
    const size_t at = out.find("\nCUDA ");
    REQUIRE(at != std::string::npos);
    const std::string line = out.substr(at + 1, out.find('\n', at + 1) - at - 1);
    const std::string archs = cuda_backend::compiled_architectures();
    CHECK(line.find(archs.empty() ? cuda_backend::why_not(0) : archs) != std::string::npos);
    if (!has_card()) CHECK(line.find(cuda_backend::why_not(0)) != std::string::npos);
    CHECK((out.find("\ncuBLASLt ") == std::string::npos) == archs.empty());
    CHECK((out.find("\nNCCL ") == std::string::npos) == archs.empty());
    CHECK((out.find("\ncuda:0 ") != std::string::npos) == !cuda_backend::cards().empty());
  }

  TEST_CASE(
      "a card trains as the CPU does, goes on with the same bits, and is sampled and measured") {
    if (!has_card()) return;
    const Corpus c;
    for (const bool mixture : {false, true}) {
      const std::string name = c.folder / (mixture ? "mixture" : "dense");
      const std::string host = name + "-cpu", card = name + "-card", parts = name + "-parts";
      REQUIRE(run_program(training(c.data, host, mixture, {})).status == 0);
      const Result r = run_program(training(c.data, card, mixture, {"--device=cuda"}));
      INFO(r.err);
      REQUIRE(r.status == 0);
      CHECK(r.out.find("device: cuda:0, ") != std::string::npos);
      CHECK(r.out.find(" memory on cuda:0, ") != std::string::npos);
      const std::vector<double> wanted = losses(host), got = losses(card);
      REQUIRE(got.size() == wanted.size());
      for (size_t i = 0; i < got.size(); ++i)
        CHECK(got[i] == doctest::Approx(wanted[i]).epsilon(1e-3));
      const Args again = training(c.data, parts, mixture, {"--device=cuda"});
      CHECK(run_program(again, interrupt_at(parts, 10, SIGTERM)).status == 128 + SIGTERM);
      REQUIRE(run_program({"train", "--resume", parts}).status == 0);
      check_same_run(card, parts);
      for (const char* device : {"--device=cpu", "--device=cuda"}) {
        const Args greedy{"sample", card, "--tokens=8", "--temperature=0", "--prompt=a"};
        Args there = greedy;
        there.push_back(device);
        CHECK(run_program(there).out == run_program(greedy).out);
        const Args eval{"eval", card, "--data", c.data, "--json", device};
        CHECK(Json::parse(run_program(eval).out).at("loss").as_double() < 6);
      }
    }
  }

  TEST_CASE("kernels and steps are timed on a card") {
    if (!has_card()) return;
    for (const char* kernel : {"softmax", "adamw"}) {
      const std::string shape = kernel == std::string("adamw") ? "--shape=2x3x4" : "--shape=3x8";
      const Result r = run_program(
          {"bench", kernel, shape, "--reps=1", "--budget=0", "--json", "-", "--device", "cuda"});
      INFO(r.err);
      REQUIRE(r.status == 0);
      const Json j = Json::parse(r.out);
      CHECK(j.at("device") == Json("cuda:0"));
      CHECK_FALSE(j.contains("roofs"));
      for (const Json& one : j.at("cases").items()) CHECK(one.at("us").as_double() > 0);
    }
    const Result r = run_program(
        {"bench", "step", "--preset=tiny", "--steps=2", "--json", "-", "--device", "cuda"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    const Json j = Json::parse(r.out);
    CHECK(j.at("loss_last").as_double() < j.at("loss_first").as_double());
    CHECK(j.contains("peak_device_mib"));
  }
}
