// olm train: what it leaves behind, and what it can be told.
#include <sys/resource.h>

#include <olm/nn/model_io.h>

#include <tests/tools/runs.h>

using namespace olm;
using namespace olm::test;

namespace {

/// Seconds that cores spent on processes that this one started, and that have ended.
double seconds_of_children() {
  rusage used{};
  ::getrusage(RUSAGE_CHILDREN, &used);
  return double(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         1e-6 * double(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

}  // namespace

TEST_SUITE("tools/train") {
  TEST_CASE("a run leaves everything that a run folder has") {
    const Corpus c;
    const std::string run = c.folder / "run";
    const Result r = run_program(tiny_training(c.data, run, {"--steps=150", "--lr=0.01"}));
    INFO(r.err);
    REQUIRE(r.status == 0);
    for (const char* part : {"plan: ", " parameters, ", " memory, ", "FLOPs per token", "in about",
                             "step 150/150", "validation loss", "done"})
      CHECK(r.out.find(part) != std::string::npos);
    for (const char* file : {"run.toml", "model.json", "tokenizer.json", "metrics.jsonl",
                             "metrics.csv", "report.html", "model.safetensors", "samples.jsonl"})
      CHECK_MESSAGE(file_exists(run + "/" + file), file);
    const std::vector<Json> lines = nn::JsonLines::read(run + "/metrics.jsonl");
    REQUIRE(lines.size() == 151);
    for (const char* name :
         {"step", "loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "train_seconds"})
      CHECK_MESSAGE(lines.back().contains(name), name);
    CHECK(losses(run).back() < 0.8 * losses(run).front());
    CHECK(losses(run, "val_loss").size() == 9);
    // The newest three, and the best, which is one of them or another.
    const std::vector<int64_t> steps = nn::Checkpoints(run).steps();
    REQUIRE(steps.size() >= 3);
    CHECK(steps.size() <= 4);
    CHECK(steps.back() == 150);
    const std::string report = read_file(run + "/report.html");
    CHECK(report.find("<svg") != std::string::npos);
    CHECK(report.find("http") == std::string::npos);
    CHECK(read_file(run + "/metrics.csv").starts_with("step,val_loss,loss,lr,"));
  }

  TEST_CASE("more threads than the machine has cores print nothing and change nothing") {
    const Corpus c;
    for (const char* threads : {"1", "200"}) {
      const Result r =
          run_program(tiny_training(c.data, c.folder / threads, {"--threads", threads}));
      CHECK(r.status == 0);
      CHECK(r.err.empty());
    }
    CHECK(losses(c.folder / "1") == losses(c.folder / "200"));
  }

  TEST_CASE("printed commands can be typed as they are") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    const std::string run = f / "it's mine; \"$HOME\"";
    const auto command = [](const std::string& text, const std::string& begin) {
      const size_t at = text.find(begin);
      REQUIRE(at != std::string::npos);
      std::string line = text.substr(at + 4, text.find('\n', at) - at - 4);  // behind "olm "
      return line.substr(0, line.find(", or name"));
    };
    const auto typed = [](const std::string& line) {
      return run_program({"-c", "exec '" OLM_PROGRAM "' " + line}, {.program = "/bin/sh"});
    };
    const Result stopped =
        run_program(held_up(tiny_training(f / "text.txt", run)), interrupt_at(run, 10, SIGTERM));
    REQUIRE(stopped.status == 128 + SIGTERM);
    const Result done = typed(command(stopped.out, "olm train --resume ") + " --sample.tokens=20");
    INFO(done.err);
    REQUIRE(done.status == 0);
    CHECK(typed(command(done.out, "olm sample ")).status == 0);
    const Result taken = run_program(tiny_training(f / "text.txt", run));
    CHECK(taken.status == 1);
    CHECK(typed(command(taken.err, "olm train --resume ")).status == 0);
    remove_all(run + "/checkpoints");
    const Result lost = run_program({"train", "--resume", run});
    CHECK(lost.status == 1);
    CHECK(lost.err.find("holds no checkpoint to resume from; begin anew") != std::string::npos);
    CHECK(typed(command(lost.err, "olm train --config ")).status == 0);
    CHECK(file_exists(run + "-2/model.safetensors"));
  }

  TEST_CASE("one thread and two give the same bits") {
    const Corpus c;
    const std::string one = c.folder / "one", two = c.folder / "two";
    const Args more = {"--model.embed_dim=64", "--batch-size=16", "--context=64", "--steps=10"};
    Args single = more, both = more;
    single.push_back("--threads=1");
    both.push_back("--threads=2");
    REQUIRE(run_program(tiny_training(c.data, one, single)).status == 0);
    REQUIRE(run_program(tiny_training(c.data, two, both)).status == 0);
    check_same_run(one, two);
  }

  TEST_CASE("minutes count what comes between steps") {
    const Corpus c;
    const double before = seconds_of_children();
    const Result r =
        run_program(tiny_training(c.data, c.folder / "run",
                                  {"--minutes=0.02", "--sample-every=1", "--sample.tokens=1000",
                                   "--eval-every=0", "--checkpoint-every=0"}));
    CHECK(r.status == 0);
    INFO(r.out);
    CHECK(seconds_of_children() - before < 15);  // not those in which others had the cores
  }

  TEST_CASE("weights of another run are a beginning") {
    const Corpus c;
    const std::string first = c.folder / "first", second = c.folder / "second";
    REQUIRE(run_program(tiny_training(c.data, first, {"--lr=0.01", "--steps=100"})).status == 0);
    const Result r = run_program({"train", "--data", c.data, "--init-from", first, "--out", second,
                                  "--steps=2", "--eval-every=1", "--sample-every=0"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(losses(second, "val_loss").front() == doctest::Approx(losses(first, "val_loss").back()));
    check_refused({"train", "--data", c.data, "--init-from", first, "--out", c.folder / "third",
                   "--model.embed_dim=32"},
                  {"embedding.weight"});
  }

  TEST_CASE("weights of another run are tied, copied or refused as the new model is tied") {
    const Corpus c;
    const auto start = [&](const std::string& from, const char* tied, const std::string& out) {
      Args args{"train",
                "--data",
                c.data,
                "--out",
                out,
                "--steps=2",
                "--eval-every=0",
                "--sample-every=0",
                "--checkpoint-every=1",
                std::string("--model.tie_weights=") + tied};
      if (!from.empty()) args.insert(args.end(), {"--init-from", from});
      return args;
    };
    const std::string tied = c.folder / "tied", untied = c.folder / "untied";
    const std::string model = "--model.tie_weights=false";
    REQUIRE(run_program(tiny_training(c.data, tied, {"--steps=2"})).status == 0);
    REQUIRE(run_program(tiny_training(c.data, untied, {"--steps=2", model})).status == 0);
    const auto parameters = [](const std::string& run) { return nn::load(run)->num_parameters(); };
    const int64_t more = parameters(untied) - parameters(tied);
    CHECK(more > 0);
    for (const auto& [from, how, extra] :
         {std::tuple{tied, "true", int64_t(0)}, {tied, "false", more}, {untied, "false", more}}) {
      INFO(from, " → ", how);
      const TempFolder out;
      const std::string run = out / "run";
      const Result r = run_program(start(from, how, run));
      INFO(r.err);
      REQUIRE(r.status == 0);
      CHECK(parameters(run) == parameters(tied) + extra);
      const Result longer = run_program({"train", "--resume", run, "--steps=4"});
      INFO(longer.err);
      CHECK(longer.status == 0);
      CHECK(losses(run).size() == 4);
      CHECK(run_program({"sample", run, "--tokens=3"}).status == 0);
    }
    // A run whose configuration says untied, but whose weights were tied as it trained.
    std::string config = read_file(tied + "/run.toml");
    const size_t at = config.find("tie_weights = true");
    REQUIRE(at != std::string::npos);
    write_file(tied + "/run.toml", config.replace(at, 18, "tie_weights = false"));
    CHECK(run_program({"train", "--resume", tied, "--steps=4"}).status == 0);
    CHECK(losses(tied).size() == 4);
    const TempFolder out;
    check_refused(start(untied, "true", out / "run"),
                  {"blocks.0.blocks.0.embedding.weight", "one tensor", "untie"});
    CHECK_FALSE(file_exists(out / "run"));
    CHECK_FALSE(folder_exists(out / "run"));
  }

  TEST_CASE("a training that diverges says nan, without a sign, and ends") {
    const Corpus c;
    const TempFolder out;
    const Result r = run_program(
        tiny_training(c.data, out / "run",
                      {"--lr=1e6", "--optim.clip_norm=0", "--sample-every=0", "--eval-every=4"}));
    CHECK(r.status == 1);
    CHECK(r.err.find("olm train: training has diverged, 20 steps in a row") == 0);
    CHECK(r.out.find("validation loss nan") != std::string::npos);
    CHECK((r.out + r.err).find("-nan") == std::string::npos);
  }

  TEST_CASE("bf16, accumulation, other families and other optimizers train") {
    const Corpus c;
    for (const Args& more :
         std::vector<Args>{{"--dtype=bf16", "--lr=0.01"},
                           {"--accumulation=3", "--lr=0.01"},
                           {"--model.family=llama", "--lr=0.01", "--model.num_kv_heads=1"},
                           {"--model.family=gemma3", "--lr=0.01", "--model.sliding_window=4"},
                           {"--model.family=deepseek_v3", "--lr=0.01", "--model.num_layers=2"},
                           {"--model.intermediate_size=24", "--lr=0.01"},
                           {"--optim.optimizer=lion", "--lr=0.003"},
                           {"--optim.optimizer=muon", "--optim.momentum=0.9"},
                           {"--optim.optimizer=sgd", "--lr=0.3", "--optim.schedule=wsd"},
                           {"--tokenizer=byte", "--lr=0.01", "--optim.schedule=linear"},
                           {"--tokenizer=bpe:270", "--lr=0.01", "--optim.schedule=constant"}}) {
      const TempFolder out;
      const Result r = run_program(tiny_training(c.data, out / "run", more));
      INFO(more.front(), ": ", r.err);
      CHECK(r.status == 0);
      if (r.status == 0) CHECK(losses(out / "run").back() < 0.97 * losses(out / "run").front());
    }
  }
}
