// olm train --resume: interrupted runs end as uninterrupted ones.
#include <tests/tools/runs.h>

using namespace olm;
using namespace olm::test;

namespace {

const Args kDropout = {"--model.dropout=0.1", "--steps=60"};

/// Goes on with a run that was held up.
Result go_on(const std::string& run) {
  return run_program({"train", "--resume", run, "--sample.tokens=20"});
}

/// Sends SIGTERM once the log has the losses of so many steps.
RunOptions end_after(const std::string& run, size_t steps) {
  return {.watch = [=, sent = false](pid_t child) mutable {
    if (sent || !file_exists(run + "/metrics.jsonl") || losses(run).size() < steps) return;
    ::kill(child, SIGTERM);
    sent = true;
  }};
}

}  // namespace

TEST_SUITE("tools/resume") {
  TEST_CASE("kill -9 and resume end with the same bits") {
    const Corpus c;
    const std::string whole = c.folder / "whole", killed = c.folder / "killed";
    REQUIRE(run_program(tiny_training(c.data, whole, kDropout)).status == 0);
    const Result r = run_program(held_up(tiny_training(c.data, killed, kDropout)),
                                 interrupt_at(killed, 10, SIGKILL));
    REQUIRE(r.status == 128 + SIGKILL);
    const Result resumed = go_on(killed);
    INFO(resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK(resumed.out.find("resuming at step ") != std::string::npos);
    check_same_run(whole, killed);
  }

  TEST_CASE("SIGTERM, SIGINT and SIGHUP save and say how to go on") {
    const Corpus c;
    const std::string whole = c.folder / "whole";
    REQUIRE(run_program(tiny_training(c.data, whole, kDropout)).status == 0);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
      const std::string run = c.folder / ("stopped" + std::to_string(signal));
      const Result r =
          run_program(held_up(tiny_training(c.data, run, kDropout)), interrupt_at(run, 10, signal));
      CHECK(r.status == 128 + signal);
      CHECK(r.out.find("go on with: olm train --resume " + run) != std::string::npos);
      REQUIRE(go_on(run).status == 0);
      check_same_run(whole, run);
    }
  }

  TEST_CASE("a hang-up that is ignored stays ignored") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const auto before = ::signal(SIGHUP, SIG_IGN);
    const Result r = run_program(tiny_training(c.data, run), interrupt_at(run, 10, SIGHUP));
    ::signal(SIGHUP, before);
    CHECK(r.status == 0);
  }

  TEST_CASE("SIGTERM ends a sample in the middle, which is made when the run goes on") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const Args sevens = {"--sample-every=7", "--eval-every=5"};
    const Result r = run_program(held_up(tiny_training(c.data, run, sevens)), end_after(run, 7));
    CHECK(r.status == 128 + SIGTERM);
    CHECK(r.out.find("stopped at step 7 ") != std::string::npos);
    CHECK(nn::JsonLines::read(run + "/samples.jsonl").empty());
    REQUIRE(run_program({"train", "--resume", run, "--sample.tokens=5"}).status == 0);
    const std::vector<Json> samples = nn::JsonLines::read(run + "/samples.jsonl");
    REQUIRE(samples.size() == 6);
    CHECK(samples[0].at("step") == Json(7));
  }

  TEST_CASE("a run whose last sample was cut off is not done") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const Args last = {"--sample-every=10", "--steps=10"};
    const Result r = run_program(held_up(tiny_training(c.data, run, last)), end_after(run, 10));
    CHECK(r.status == 128 + SIGTERM);
    CHECK(r.out.find("stopped at step 10 of 10; go on with: ") != std::string::npos);
    REQUIRE(run_program({"train", "--resume", run, "--sample.tokens=5"}).status == 0);
    CHECK(nn::JsonLines::read(run + "/samples.jsonl").size() == 1);
  }

  TEST_CASE("files in the making that a dead process left are cleared away") {
    const Corpus c;
    const std::string run = c.folder / "run";
    REQUIRE(run_program(tiny_training(c.data, run)).status == 0);
    for (const char* name : {"run.toml.tmp-123-4", "model.safetensors.tmp", "mine.tmp",
                             "mine.tmp-draft", "mine.tmp-2-b"})
      write_file(run + "/" + name, "x");
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK_FALSE(file_exists(run + "/run.toml.tmp-123-4"));
    CHECK_FALSE(file_exists(run + "/model.safetensors.tmp"));
    for (const char* name : {"mine.tmp", "mine.tmp-draft", "mine.tmp-2-b"})
      CHECK(file_exists(run + "/" + name));
  }

  TEST_CASE("keys that run.toml leaves out are named when a run goes on") {
    const Corpus c;
    const std::string run = c.folder / "run";
    REQUIRE(run_program(tiny_training(c.data, run)).status == 0);
    std::string config = read_file(run + "/run.toml");
    for (const char* key : {"beta2 = ", "dropout = ", "top_k = ", "out = "}) {
      const size_t at = config.find(std::string("\n") + key);
      REQUIRE(at != std::string::npos);
      config.erase(at, config.find('\n', at + 1) - at);
    }
    write_file(run + "/run.toml", config);
    const Result r = run_program({"train", "--resume", run, "--sample.top_k=3"});
    CHECK(r.status == 0);
    CHECK(r.err == "olm train: " + run + "/run.toml leaves out keys, which take their defaults: " +
                       "model.dropout = 0.0, optim.beta2 = 0.99\n");
    CHECK(run_program({"train", "--resume", run}).err.empty());  // the file is whole again
  }

  TEST_CASE("a finished run can be made longer") {
    const Corpus c;
    const std::string run = c.folder / "run";
    REQUIRE(run_program(tiny_training(c.data, run)).status == 0);
    REQUIRE(run_program({"train", "--resume", run, "--steps", "50"}).status == 0);
    CHECK(losses(run).size() == 50);
  }

  TEST_CASE("minutes fix the number of steps, and resuming keeps it") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const nn::Checkpoints checkpoints(run);
    const auto state = [&] { return checkpoints.state(checkpoints.steps().back()); };
    // So many that none of the two comes to the end.
    REQUIRE(run_program(tiny_training(c.data, run, {"--minutes=1"}), end_after(run, 1)).status ==
            128 + SIGTERM);
    const nn::CheckpointState before = state();
    CHECK(before.total_steps > before.step);
    CHECK(before.total_steps != 40);
    REQUIRE(
        run_program({"train", "--resume", run}, end_after(run, size_t(before.step) + 1)).status ==
        128 + SIGTERM);
    CHECK(state().step > before.step);
    CHECK(state().total_steps == before.total_steps);
  }
}
