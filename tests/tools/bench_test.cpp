// olm bench on tiny shapes: that it runs, what it writes, and what it refuses. No figure is judged.
#include <algorithm>
#include <cmath>
#include <cstdlib>

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
      CHECK(j.at("model_gflop").as_double() == doctest::Approx(flop / 1e9).epsilon(1e-5));
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

  TEST_CASE("every kernel is timed, in both dtypes and directions") {
    struct Tiny {
      const char *name, *shape;
      size_t cases;
    };
    // gemm has three layouts; most others forward and backward in two dtypes; two forms of some.
    for (const Tiny& t : {Tiny{"gemm", "9x17x5", 6},       Tiny{"flash_attention", "1x2x8x16", 4},
                          Tiny{"rms_norm", "3x8", 4},      Tiny{"layer_norm", "3x8", 4},
                          Tiny{"add_norm", "3x8", 8},      Tiny{"swiglu", "3x8", 4},
                          Tiny{"gelu", "3x8", 8},          Tiny{"softmax", "3x8", 4},
                          Tiny{"cross_entropy", "3x8", 4}, Tiny{"linear_cross_entropy", "3x8x4", 4},
                          Tiny{"embedding", "3x8x4", 4},   Tiny{"rope", "1x2x3x4", 8},
                          Tiny{"adamw", "2x3x4", 2},       Tiny{"muon", "2x3x4", 2},
                          Tiny{"generate", "1x128x2", 2},  Tiny{"moe_route", "3x8", 4},
                          Tiny{"moe_permute", "3x8", 4},   Tiny{"grouped_gemm", "6x5x4x2", 4},
                          Tiny{"moe_combine", "3x8", 4},   Tiny{"moe", "6x4x8x3", 4}}) {
      INFO(t.name);
      const Json j = printed_json({"bench", t.name, "--shape", t.shape, "--threads", "2", "--reps",
                                   "1", "--budget", "0", "--no-roofs", "--json", "-"});
      CHECK(j.at("what").as_string() == "olm_bench");
      CHECK(j.at("threads").as_int() == 2);
      REQUIRE(j.at("cases").size() == t.cases);
      for (const Json& c : j.at("cases").items()) {
        CHECK(c.at("shape").as_string() == t.shape);
        CHECK(c.at("us").as_double() > 0);
        CHECK(c.at("gbps").as_double() > 0);
        const double bytes = 1e3 * c.at("gbps").as_double() * c.at("us").as_double();
        // Bytes are whole; a small rate cut to few digits would not give them back.
        CHECK(bytes == doctest::Approx(std::round(bytes)).epsilon(1e-5));
        CHECK_FALSE(c.contains("roof"));
        CHECK(c.contains("ratio") == (t.name == std::string("moe")));
        if (c.contains("ratio")) CHECK(c.at("ratio").as_double() > 0);
      }
    }
  }

  TEST_CASE("kernels are held against the limits of the machine, also with cold memory") {
    for (const Args& kernel : {Args{"gemm", "--shape", "64x64x64"}, Args{"rms_norm"}}) {
      Args args{"bench", "--dtype", "f32", "--reps", "1", "--budget", "0", "--cold", "--json", "-"};
      args.insert(args.end(), kernel.begin(), kernel.end());
      const Json j = printed_json(args);
      for (const char* roof : {"f32_fma_gflops", "dram_read_gbps", "llc_update_gbps", "llc_bytes"})
        CHECK_MESSAGE(j.at("roofs").at(roof).as_double() > 0, roof);
      const bool is_gemm = kernel[0] == "gemm";
      for (const Json& c : j.at("cases").items()) {
        INFO(c.at("case").as_string());
        CHECK(c.at("cold").as_bool() == !is_gemm);
        if (!is_gemm) CHECK(c.at("roof").as_string().starts_with("DRAM"));
        CHECK(c.at("percent_of_roof").as_double() > 0);
      }
    }
  }

  TEST_CASE("compare joins by case and fails where one became slower") {
    const TempFolder folder;
    const auto file = [&](const char* name, const std::vector<std::pair<std::string, double>>& us) {
      Json json = Json::object();
      json["what"] = "olm_bench";
      for (const auto& [key, value] : us) {
        Json c = Json::object();
        c["case"] = key;
        c["us"] = value;
        json["cases"].push_back(std::move(c));
      }
      write_json(folder / name, json);
      return folder / name;
    };
    const std::string a = file("a", {{"one", 100}, {"two", 10}, {"gone", 1}});
    const std::string b = file("b", {{"two", 10.4}, {"one", 80}, {"new", 1}});
    const Result close = run_program({"bench", "compare", a, b, "--fail-over", "5%"});
    CHECK(close.status == 0);
    CHECK(close.out.find("0.800") != std::string::npos);
    CHECK(close.out.find("1.040") != std::string::npos);
    CHECK(close.out.find("only in " + a) != std::string::npos);
    CHECK(close.out.find("only in " + b) != std::string::npos);
    const Result strict = run_program({"bench", "compare", a, b, "--fail-over", "3%"});
    CHECK(strict.status == 1);
    CHECK(strict.out.find("SLOWER") != std::string::npos);
    CHECK(run_program({"bench", "compare", b, a, "--fail-over", "3"}).status == 1);
    CHECK(run_program({"bench", "compare", a, a, "--fail-over", "0"}).status == 0);
    const std::string step = folder / "step";
    REQUIRE(
        run_program({"bench", "step", "--preset", "tiny", "--steps", "1", "--json", step}).status ==
        0);
    CHECK(run_program({"bench", "compare", step, step}).status == 0);
    check_refused({"bench", "compare", a, step}, {"no case in common"});
    check_refused({"bench", "compare", a, folder / "none"}, {"none"});
    write_file(folder / "other", "{\"what\": \"else\"}");
    check_refused({"bench", "compare", a, folder / "other"}, {"other: is no file of olm bench"});
    check_refused({"bench", "compare", a, b, "--fail-over", "x"}, {"--fail-over: wants", "\"x\""});
    for (const char* us : {"0", "-3", "null", "1e999"}) {
      write_file(folder / "odd",
                 std::string(R"({"what": "olm_bench", "cases": [{"case": "one", )") +
                     "\"us\": " + us + "}]}");
      check_refused({"bench", "compare", folder / "odd", b}, {"odd: "});
    }
  }

  TEST_CASE("versus_ranks runs ranks and another program by turns") {
    if (!fs::exists("/usr/bin/env") || std::system("python3 -c '' 2>/dev/null") != 0) {
      MESSAGE("no python3: versus_ranks is not tested");
      return;
    }
    const TempFolder folder;
    const RunOptions script{.program = OLM_FIXTURES "/../../tools/bench/versus_ranks"};
    // In place of mpirun: a program that says what ranks took.
    const std::string stub = folder / "mpirun", figures = folder / "figures.json";
    const auto say = [&](const std::string& params) {
      write_file(stub, "#!/bin/sh\necho '{\"params\": " + params +
                           ", \"step_ms\": 0.001, \"communication_ms\": 4, \"waited_ms\": 1, "
                           "\"buckets\": 2, \"buckets_in_backward\": 1, \"bytes_sent\": 10, "
                           "\"planned_bytes_sent\": 11, \"peak_memory\": 5, "
                           "\"planned_memory\": 6}'\n");
      fs::permissions(stub, fs::perms::owner_all);
    };
    const Args args{"threads", "--preset",  "tiny",     "--steps", "1",      "--rounds", "2",
                    "--olm",   OLM_PROGRAM, "--mpirun", stub,      "--json", figures};
    say("27488");
    const Result r = run_program(args, script);
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(r.out.find("75% of communication hidden") != std::string::npos);
    CHECK(r.out.find("sent 10 bytes, planned 11") != std::string::npos);
    const Json c = read_json(figures).at("cases").at(0);
    CHECK(c.at("peer").as_string() == "2 threads");
    CHECK(c.at("ratio").as_double() > 1);
    CHECK(c.at("runs").size() == 4);
    say("5");
    check_refused(args, {"versus_ranks: the models differ: 5 and 27488"}, script);
    check_refused({"threads", "--ranks", "1"}, {"--ranks: wants at least 2, got 1"}, script);
  }

  TEST_CASE("versus_torch runs both by turns and takes the ratio of their times") {
    if (!fs::exists("/usr/bin/env") || std::system("python3 -c '' 2>/dev/null") != 0) {
      MESSAGE("no python3: versus_torch is not tested");
      return;
    }
    const TempFolder folder;
    const RunOptions script{.program = OLM_FIXTURES "/../../tools/bench/versus_torch"};
    // In place of PyTorch: a program that says what it took, 1000 times as long.
    const std::string stub = folder / "python", figures = folder / "figures.json";
    const auto say = [&](const std::string& json) {
      write_file(stub, "#!/bin/sh\necho '" + json + "'\n");
      fs::permissions(stub, fs::perms::owner_all);
    };
    const Args step{"step",     "--preset", "tiny",      "--steps",  "1",
                    "--budget", "0",        "--rounds",  "3",        "--threads",
                    "1",        "--olm",    OLM_PROGRAM, "--python", stub,
                    "--gate",   "0",        "--json",    figures};
    say(R"({"version": "1", "params": 27488, "step_ms": 1000, "peak_rss_mib": 7})");
    const Result r = run_program(step, script);
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(r.out.find("3 rounds") != std::string::npos);
    const Json c = read_json(figures).at("cases").at(0);
    CHECK(c.at("torch").as_double() == 1000);
    CHECK(c.at("runs").size() == 6);
    std::vector<double> ratios;
    for (size_t i = 0; i < 6; i += 2)
      ratios.push_back(1000 / c.at("runs").at(i).at("step_ms").as_double());
    std::sort(ratios.begin(), ratios.end());
    CHECK(c.at("ratio_min").as_double() == doctest::Approx(ratios[0]));
    CHECK(c.at("ratio").as_double() == doctest::Approx(ratios[1]));
    CHECK(c.at("ratio_max").as_double() == doctest::Approx(ratios[2]));

    say(R"({"version": "1", "params": 5, "step_ms": 1000, "peak_rss_mib": 7})");
    check_refused(step, {"versus_torch: the models differ: 27488 and 5"}, script);
    say("Hello");
    check_refused(step, {"printed no JSON"}, script);
    remove_all(stub);
    check_refused(step, {"cannot be run"}, script);
    check_refused({"ops", "gem"}, {"versus_torch: there is no kernel gem; there are gemm"}, script);
    say(R"({"version": "1", "cases": [{"name": "softmax", "shape": "3x8", "pass": "forward", )"
        R"("us": 9}, {"name": "softmax", "shape": "3x8", "pass": "forward+backward", "us": 9}]})");
    const Result ops =
        run_program({"ops", "softmax", "--shape", "3x8", "--reps", "1", "--budget", "0", "--rounds",
                     "1", "--olm", OLM_PROGRAM, "--python", stub, "--gate", "0"},
                    script);
    INFO(ops.err);
    CHECK(ops.status == 0);
    CHECK(ops.out.find("softmax 3x8 f32 forward+backward") != std::string::npos);
    CHECK(ops.out.find("dense twin") == std::string::npos);
    say(R"({"version": "1", "cases": [{"name": "moe", "shape": "4x8x8x2", "pass": "forward", "us": 9, )"
        R"("ratio": 2.5}, {"name": "moe", "shape": "4x8x8x2", "pass": "forward+backward", )"
        R"("us": 9, "ratio": 3.5}]})");
    const Result moe =
        run_program({"ops", "moe", "--shape", "4x8x8x2", "--reps", "1", "--budget", "0", "--rounds",
                     "1", "--olm", OLM_PROGRAM, "--python", stub, "--gate", "0"},
                    script);
    INFO(moe.err);
    CHECK(moe.status == 0);
    CHECK(moe.out.find("times its dense twin: olm ") != std::string::npos);
    CHECK(moe.out.find("torch 3.50 (3.50 to 3.50)") != std::string::npos);
  }

  TEST_CASE("wrong flags of kernels are refused") {
    check_refused({"bench", "gem"}, {"no benchmark is called \"gem\"", "gemm, ", "softmax"});
    for (const char* shape : {"4x4", "4x4x4x4", "4x4x0", "4x4x", "4,4,4", "x"})
      check_refused({"bench", "gemm", "--shape", shape}, {"--shape: wants MxNxK for gemm", shape});
    check_refused({"bench", "all", "--shape", "4x4"}, {"--shape: wants one kernel"});
    check_refused({"bench", "gemm", "--dtype", "f64"}, {"--dtype: wants f32 or bf16"});
    check_refused({"bench", "adamw", "--dtype", "bf16"}, {"adamw has no cases in bf16"});
    check_refused({"bench", "generate", "--shape", "1x100x4"}, {"multiple of 128, got 100"});
    const std::string huge = "2147483648";
    for (const Args& args : {Args{"gemm", "1x" + huge + "x" + huge}, Args{"adamw", huge + "x1x1"},
                             Args{"adamw", "1000000x1000000x1"}, Args{"rope", "1x1x" + huge + "x2"},
                             Args{"embedding", huge + "x1x9"}, Args{"softmax", huge + "x" + huge},
                             Args{"generate", "100000000x128x1"}})
      check_refused({"bench", args[0], "--shape", args[1]},
                    {"--shape: " + args[0] + " " + args[1], "takes about", "this machine has"});
    check_refused({"bench", "gemm", "--reps", "0"}, {"--reps: wants at least 1, got 0"});
  }

  TEST_CASE("a file that cannot be written is refused before anything is measured") {
    for (const Args& what : {Args{"bench", "softmax"}, Args{"bench", "step"}}) {
      Args args = what;  // with the usual sizes either takes many seconds
      for (const char* more : {"--budget", "1000", "--json", "/nowhere/at/all.json"})
        args.push_back(more);
      check_refused(args, {"/nowhere/at/all.json", "cannot be created"});
    }
  }

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these take all addresses
  TEST_CASE("threads that cannot be started are an error and not waited for") {
    const std::string limits = "ulimit -v 8388608 && ulimit -s 262144 && ";  // 8 GiB, few stacks
    check_refused({"-c", limits + "exec '" OLM_PROGRAM "' bench step --preset tiny --threads 200"},
                  {"of 200 threads only "}, {.program = "/bin/sh"});
  }
#endif

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
