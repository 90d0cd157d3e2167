// olm plan: figures of known models, what flags change, and what cannot be.
#include <olm/engine/json.h>
#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

Json plan_of(Args more) {
  Args args{"plan", "--json"};
  args.insert(args.end(), more.begin(), more.end());
  const Result r = run_program(args);
  INFO("stderr: ", r.err);
  REQUIRE(r.status == 0);
  return Json::parse(r.out);
}

double number(const Json& json, const char* section, const char* key) {
  return json.at(section).at(key).as_double();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Sixteen cards, eight in a machine.
Args paper(const Args& more = {}) {
  Args args{"--preset", "gpt2-124m", "--ranks", "16", "--gpu", "h100", "--link", "400"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

}  // namespace

TEST_SUITE("tools/plan") {
  TEST_CASE("figures of a known model on cards that are not here") {
    const Json p = plan_of(paper());
    const double parameters = 124439808;
    CHECK(p.at("parameters").as_double() == parameters);
    CHECK(p.at("ranks").as_int() == 16);
    CHECK(p.at("ranks_per_machine").as_int() == 8);
    CHECK(p.at("rank_micro_batches").as_int() == 2);
    CHECK(p.at("tokens_per_step").as_int() == 16 * 32 * 1024);
    CHECK(number(p, "memory", "weights") == 4 * parameters);
    CHECK(number(p, "memory", "moments") == doctest::Approx(8 * parameters / 16).epsilon(0.05));
    CHECK(number(p, "sent", "gradients") ==
          doctest::Approx(4 * parameters * 15 / 16).epsilon(0.01));
    CHECK(number(p, "sent", "weights") == doctest::Approx(4 * parameters * 15 / 16).epsilon(0.05));
    CHECK(p.at("memory_limit").as_double() == 80e9 - 1.5e9);
    CHECK(p.at("fits").as_bool());
    CHECK(p.at("largest_batch_size").as_int() > 16);
    // 16 to 17 thousand tokens of a rank's two micro-batches, at half of 989 TFLOP/s.
    const double flops = 6 * 32768 * parameters;
    CHECK(number(p, "seconds", "compute") > flops / (0.5 * 989e12));
    CHECK(number(p, "seconds", "compute") < 1.3 * flops / (0.5 * 989e12));
    // Eight of fifteen others are behind a link of 50 GB/s.
    CHECK(number(p, "seconds", "communication") ==
          doctest::Approx(2 * 4 * parameters * 15 / 16 * 8 / 15 / 50e9).epsilon(0.05));
    CHECK(p.at("mfu").as_double() < 0.5);
    CHECK(p.at("mfu").as_double() > 0.3);
    CHECK(p.at("assumed").size() >= 5);
    const Json narrow = plan_of(paper({"--dist.wire=bf16"}));
    CHECK(number(narrow, "sent", "gradients") == number(p, "sent", "gradients") / 2);
    const Json muon = plan_of(paper({"--optim.optimizer=muon"}));
    CHECK(number(muon, "memory", "moments") < 0.8 * number(p, "memory", "moments"));
    CHECK(number(muon, "seconds", "update") > number(p, "seconds", "update"));
    const Json whole = plan_of(paper({"--dist.zero=0"}));
    CHECK(number(whole, "memory", "moments") == 8 * parameters);
    const Json slow = plan_of(paper({"--rate", "98.9", "--share", "0.25", "--memory", "0.5"}));
    CHECK(number(slow, "seconds", "compute") ==
          doctest::Approx(20 * number(p, "seconds", "compute")));
    CHECK_FALSE(slow.at("fits").as_bool());
    CHECK(slow.at("largest_batch_size").as_int() == 0);
  }

  TEST_CASE("text for readers says what is assumed") {
    const Args args = paper();
    Args whole{"plan"};
    whole.insert(whole.end(), args.begin(), args.end());
    const Result r = run_program(whole);
    CHECK(r.status == 0);
    for (const char* part :
         {"124,439,808 parameters on 16 ranks, each h100", "32 micro-batches of 16 sequences",
          "moments", "of 78.5 GB", "largest batch_size", "tokens per second", "MFU", "assumed",
          "8 ranks on a machine; each sends 400 Gbit/s", "reach 50 % of that rate"})
      CHECK_MESSAGE(contains(r.out, part), part);
  }

  TEST_CASE("a step that takes for ever is told in years") {
    const Result r = run_program(
        {"plan", "--gpu", "h100", "--rate", "1e-6", "--share", "1e-6", "--batch-size", "1000000"});
    CHECK(contains(r.out, "a step takes about 1e+07 years"));
  }

  TEST_CASE("a model that no rank can hold is planned as quickly") {
    const Json p = plan_of({"--model", "Llama3_1_405B", "--train.context", "8192", "--dtype",
                            "bf16", "--batch-size", "1", "--accumulation", "1024", "--ranks",
                            "1024", "--gpu", "h100", "--link", "400"});
    CHECK_FALSE(p.at("fits").as_bool());
    CHECK(p.at("largest_batch_size").as_int() == 0);
    CHECK(number(p, "memory", "weights") > 1.6e12);
  }

  TEST_CASE("this machine is measured") {
    const Json p = plan_of({"--batch-size", "2", "--threads", "1"});
    CHECK(p.at("ranks").as_int() == 1);
    CHECK(p.at("vocabulary").as_int() == 256);
    CHECK(number(p, "sent", "total") == 0);
    CHECK(number(p, "seconds", "step") > 0);
    CHECK(p.at("tokens_per_second").as_double() > 0);
    CHECK(contains(p.at("assumed").at(0).as_string(), "measured now"));
  }

  TEST_CASE("ids come from the tokenizer, the text or a flag") {
    const TempFolder folder;
    write_file(folder / "text.txt", "abcabc");
    const auto ids = [](const Args& more) {
      Args args{"--gpu", "a100"};
      args.insert(args.end(), more.begin(), more.end());
      return plan_of(args).at("vocabulary").as_int();
    };
    CHECK(ids({"--tokenizer", "byte"}) == 257);
    CHECK(ids({"--tokenizer", "bpe:4096"}) == 4096);
    CHECK(ids({"--data", folder / "text.txt"}) == 3);
    CHECK(ids({"--tokenizer", "bpe:4096", "--vocab-size", "100"}) == 100);
    CHECK(ids({"--model", "GPT2"}) == 50257);
  }

  TEST_CASE("what cannot be is refused") {
    check_refused({"plan", "--gpu", "h1000"},
                  {"olm plan: --gpu: unknown card \"h1000\"; known are h100, h200"});
    check_refused({"plan", "--ranks", "4", "--accumulation", "2", "--gpu", "h100"},
                  {"--ranks: 4 ranks want at least as many micro-batches", "accumulation is 2"});
    check_refused({"plan", "--preset", "gpt2-124m", "--ranks", "16", "--gpu", "h100"},
                  {"--link: 16 ranks with 8 on a machine"});
    check_refused({"plan", "--ranks", "-1"}, {"--ranks: wants 1 to"});
    check_refused({"plan", "--ranks", "0"}, {"--ranks: wants 1 to", "got 0"});
    check_refused({"plan", "--vocab-size", "0"}, {"--vocab-size: wants 1 to", "got 0"});
    for (const char* flag : {"--link", "--rate", "--memory", "--share"})
      for (const char* value : {"0", "-1", "nan", "1e300"})
        check_refused({"plan", flag, value}, {flag, ": wants 1e-06 to ", "got "});
    check_refused({"plan", "--share", "1.5"}, {"--share", "1.5"});
    check_refused(
        {"plan", "--gpu", "h100", "--ranks", "6", "--accumulation", "6", "--dist.experts=4"},
        {"experts spread over 4 ranks do not divide 6 ranks"});
    check_refused(
        {"plan", "--gpu", "h100", "--ranks", "4", "--accumulation", "4", "--dist.experts=4"},
        {"without experts"});
    check_refused({"plan", "--preset", "nope"}, {"unknown preset"});
  }
}
