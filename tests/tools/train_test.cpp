// olm train: what it leaves behind, and that interrupted runs end as uninterrupted ones.
#include <chrono>
#include <cmath>

#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Corpus {
  TempFolder folder;
  std::string data = folder / "text.txt";
  Corpus() { write_file(data, small_text()); }
};

std::vector<double> losses(const std::string& run, const char* name = "loss") {
  std::vector<double> result;
  for (const Json& line : nn::JsonLines::read(run + "/metrics.jsonl"))
    if (const Json* value = line.find(name)) result.push_back(value->as_double());
  return result;
}

void check_same_run(const std::string& a, const std::string& b) {
  CHECK(losses(a) == losses(b));
  CHECK(losses(a, "val_loss") == losses(b, "val_loss"));
  CHECK(losses(a, "grad_norm") == losses(b, "grad_norm"));
  CHECK(read_file(a + "/model.safetensors") == read_file(b + "/model.safetensors"));
  CHECK(read_file(a + "/samples.jsonl") == read_file(b + "/samples.jsonl"));
}

/// Sends `signal` once a checkpoint of `step` is there.
RunOptions interrupt_at(const std::string& run, int64_t step, int signal) {
  return {.watch = [=, sent = false](pid_t child) mutable {
    if (sent || !file_exists(nn::Checkpoints(run).path(step) + "/state.json")) return;
    ::kill(child, signal);
    sent = true;
  }};
}

const Args kDropout = {"--model.dropout=0.1", "--steps=60"};

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

  TEST_CASE("kill -9 and resume end with the same bits") {
    const Corpus c;
    const std::string whole = c.folder / "whole", killed = c.folder / "killed";
    REQUIRE(run_program(tiny_training(c.data, whole, kDropout)).status == 0);
    const Result r =
        run_program(tiny_training(c.data, killed, kDropout), interrupt_at(killed, 20, SIGKILL));
    REQUIRE(r.status == 128 + SIGKILL);
    const Result resumed = run_program({"train", "--resume", killed});
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
          run_program(tiny_training(c.data, run, kDropout), interrupt_at(run, 10, signal));
      CHECK(r.status == 128 + signal);
      CHECK(r.out.find("go on with: olm train --resume " + run) != std::string::npos);
      REQUIRE(run_program({"train", "--resume", run}).status == 0);
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
    const Args endless = {"--sample-every=7", "--sample.tokens=10000000", "--eval-every=5"};
    const Result r = run_program(tiny_training(c.data, run, endless),
                                 {.watch = [=, sent = false](pid_t child) mutable {
                                   const std::string log = run + "/metrics.jsonl";
                                   if (sent || !file_exists(log) || losses(run).size() < 7) return;
                                   ::kill(child, SIGTERM);
                                   sent = true;
                                 }});
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
    const Args endless = {"--sample-every=10", "--sample.tokens=10000000", "--steps=10"};
    const Result r = run_program(tiny_training(c.data, run, endless),
                                 {.watch = [=, sent = false](pid_t child) mutable {
                                   const std::string log = run + "/metrics.jsonl";
                                   if (sent || !file_exists(log) || losses(run).size() < 10) return;
                                   ::kill(child, SIGTERM);
                                   sent = true;
                                 }});
    CHECK(r.status == 128 + SIGTERM);
    CHECK(r.out.find("stopped at step 10 of 10; go on with: ") != std::string::npos);
    REQUIRE(run_program({"train", "--resume", run, "--sample.tokens=5"}).status == 0);
    CHECK(nn::JsonLines::read(run + "/samples.jsonl").size() == 1);
  }

  TEST_CASE("tokens of BPE are kept in the folder, and made anew where they are damaged") {
    const Corpus c;
    const std::string whole = c.folder / "whole", run = c.folder / "run";
    const std::string shard = run + "/tokens.safetensors";
    const Args bpe = {"--tokenizer=bpe:270"};
    REQUIRE(run_program(tiny_training(c.data, whole, bpe)).status == 0);
    const Result r = run_program(tiny_training(c.data, run, bpe), interrupt_at(run, 10, SIGTERM));
    REQUIRE(r.status == 128 + SIGTERM);
    const std::string tokens = read_file(shard);
    const auto made = fs::last_write_time(shard);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK(fs::last_write_time(shard) == made);
    check_same_run(whole, run);
    std::string damaged = tokens;
    damaged[damaged.size() - 2] ^= 1;
    write_file(shard, damaged);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK(read_file(shard) == tokens);
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

  TEST_CASE("runs below their data are left out of it") {
    const TempFolder f;
    const std::string data = f / "corpus", first = data + "/runs/run",
                      second = data + "/runs/run-2";
    make_directories(data);
    write_file(data + "/a.txt", small_text());
    write_file(data + "/b.txt", small_text(50));
    for (const char* tokenizer : {"byte", "bpe:270"}) {
      Args args = tiny_training(".", "", {std::string("--tokenizer=") + tokenizer});
      args.erase(args.begin() + 3, args.begin() + 5);  // --out: the usual folder, runs/run
      const RunOptions there{.folder = data};
      const Result one = run_program(args, there);
      INFO(one.err);
      REQUIRE(one.status == 0);
      CHECK(one.out.find("left out") == std::string::npos);
      const Result two = run_program(args, there);
      INFO(two.err);
      REQUIRE(two.status == 0);
      CHECK(two.out.starts_with(
          "data: left out, as runs, models or tokenizers and not text: ./runs/run\n"));
      check_same_run(first, second);
      const Result resumed = run_program({"train", "--resume", second, "--steps=45"});
      INFO(resumed.err);
      REQUIRE(resumed.status == 0);
      CHECK(resumed.out.find(data + "/runs/run, " + data + "/runs/run-2\n") != std::string::npos);
      CHECK(losses(second).size() == 45);
      remove_all(data + "/runs");
    }
  }

  TEST_CASE("evaluation and tokenizers see the text that training saw") {
    const TempFolder f;
    const std::string data = f / "corpus", run = data + "/run";
    make_directories(data);
    write_file(data + "/a.txt", small_text());
    const auto learn = [&](const std::string& out) {
      const Result r =
          run_program({"tokenizer", "train", "--data", data, "--kind", "bpe:270", "--out", out});
      INFO(r.err);
      REQUIRE(r.status == 0);
      return r.out;
    };
    CHECK(learn(data + "/tokenizer.json").find("left out") == std::string::npos);
    REQUIRE(run_program(tiny_training(data, run)).status == 0);
    CHECK(learn(f / "again.json")
              .starts_with("data: left out, as runs, models or tokenizers and not text: " + run +
                           ", " + data + "/tokenizer.json\n"));
    CHECK(read_file(f / "again.json") == read_file(data + "/tokenizer.json"));
    const Result whole = run_program({"eval", run, "--data", data}),
                 alone = run_program({"eval", run, "--data", data + "/a.txt"});
    REQUIRE(whole.status == 0);
    const auto loss = [](const Result& r) { return r.out.substr(r.out.find("loss "), 40); };
    CHECK(whole.out.find("left out") != std::string::npos);
    CHECK(loss(whole) == loss(alone));
  }

  TEST_CASE("a run's folder that holds text of the data is refused") {
    const TempFolder f;
    make_directories(f / "corpus/part");
    write_file(f / "corpus/part/a.txt", small_text());
    for (const char* out : {"corpus/part", "corpus", "corpus/none/../part/"})
      check_refused(tiny_training(f / "corpus", f / out),
                    {f / out, "part/a.txt", "name another folder with --out"});
    CHECK(list_files(f / "corpus").size() == 1);
    CHECK(run_program(tiny_training(f / "corpus", f / "corpus/par")).status == 0);
    CHECK(run_program(tiny_training(f / "corpus/part", f / "corpus/run")).status == 0);
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
        run_program(tiny_training(f / "text.txt", run), interrupt_at(run, 10, SIGTERM));
    REQUIRE(stopped.status == 128 + SIGTERM);
    const Result done = typed(command(stopped.out, "olm train --resume "));
    INFO(done.err);
    REQUIRE(done.status == 0);
    CHECK(typed(command(done.out, "olm sample ")).status == 0);
    const Result taken = run_program(tiny_training(f / "text.txt", run));
    CHECK(taken.status == 1);
    CHECK(typed(command(taken.err, "olm train --resume ")).status == 0);
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
    const Result r =
        run_program(tiny_training(c.data, run, {"--minutes=0.05"}), interrupt_at(run, 20, SIGTERM));
    REQUIRE(r.status == 128 + SIGTERM);
    const nn::Checkpoints checkpoints(run);
    const nn::CheckpointState before = checkpoints.state(checkpoints.steps().back());
    CHECK(before.total_steps > before.step);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK(checkpoints.steps().back() == before.total_steps);
  }

  TEST_CASE("minutes count what comes between steps") {
    const Corpus c;
    const auto begin = std::chrono::steady_clock::now();
    const Result r =
        run_program(tiny_training(c.data, c.folder / "run",
                                  {"--minutes=0.02", "--sample-every=1", "--sample.tokens=400",
                                   "--eval-every=0", "--checkpoint-every=0"}));
    CHECK(r.status == 0);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    INFO(r.out);
    CHECK(passed.count() < 15);
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
