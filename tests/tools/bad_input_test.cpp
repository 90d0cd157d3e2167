// Everything that can be wrong with what the program is given: one sentence, status 1, nothing
// lost, nothing half-written.
#include <sys/file.h>
#include <sys/stat.h>

#include <cstdlib>

#include <olm/engine/json.h>
#include <olm/nn/training.h>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

/// A finished tiny run, made once.
struct Trained {
  TempFolder folder;
  std::string data = folder / "text.txt", run = folder / "run";
  Trained() {
    write_file(data, small_text());
    const Result r = run_program(tiny_training(data, run));
    INFO(r.err);
    REQUIRE(r.status == 0);
  }
};
const Trained& trained() {
  static const Trained instance;
  return instance;
}

std::string copy_of(const std::string& run, const TempFolder& folder) {
  fs::copy(run, folder / "copy", fs::copy_options::recursive);
  return folder / "copy";
}

/// All files below a folder with their bytes.
std::vector<std::pair<std::string, std::string>> contents(const std::string& folder) {
  std::vector<std::pair<std::string, std::string>> result;
  for (const std::string& file : list_files(folder)) result.emplace_back(file, read_file(file));
  return result;
}

}  // namespace

TEST_SUITE("tools/bad_input") {
  TEST_CASE("data that cannot be trained on") {
    const TempFolder f;
    auto refuse = [&](const std::string& data, const std::vector<std::string>& parts,
                      const Args& more = {}) {
      check_refused(tiny_training(data, f / "run", more), parts);
      CHECK_FALSE(fs::exists(f / "run"));
    };
    refuse(f / "none.txt", {"none.txt", "cannot be"});
    write_file(f / "empty.txt", "");
    refuse(f / "empty.txt", {"empty.txt"});
    make_directories(f / "folder");
    refuse(f / "folder", {"folder"});
    std::string binary = small_text();
    binary[100] = '\xff';
    write_file(f / "binary.txt", binary);
    refuse(f / "binary.txt", {"binary.txt", "UTF-8", "100"});
    refuse(f / "binary.txt", {"binary.txt", "UTF-8", "100"}, {"--tokenizer=bpe:300"});
    make_directories(f / "mixed");
    write_file(f / "mixed/a.txt", small_text());
    write_file(f / "mixed/b.txt", binary);
    refuse(f / "mixed", {"mixed/b.txt", "UTF-8", "100"});
    write_file(f / "short.txt", "hello");
    refuse(f / "short.txt", {"short.txt", "5 tokens", "17"});
    write_file(f / "line.txt", "one line");
    refuse(f / "line.txt", {"line.txt", "tokens"});
    REQUIRE(::mkfifo((f / "pipe").c_str(), 0600) == 0);
    refuse(f / "pipe", {"pipe"});
    check_refused({"train", "--out", f / "run"}, {"--data"});
    write_file(f / "text.txt", small_text());
    refuse(f / "text.txt", {"sample.prompt", "character"}, {"--sample.prompt=QZ"});
    refuse(f / "text.txt", {"none.json"}, {"--tokenizer=none.json"});
  }

  TEST_CASE("bytes take any file, and a single long line is a text") {
    const TempFolder f;
    std::string binary;
    for (int i = 0; i < 4000; ++i) binary += char(i * 37);
    write_file(f / "binary", binary);
    CHECK(run_program(tiny_training(f / "binary", f / "a", {"--tokenizer=byte"})).status == 0);
    std::string line = small_text();
    std::replace(line.begin(), line.end(), '\n', ' ');
    write_file(f / "line.txt", line);
    CHECK(run_program(tiny_training(f / "line.txt", f / "b")).status == 0);
    CHECK(run_program({"sample", f / "b", "--tokens=5"}).status == 0);
  }

  TEST_CASE("an output folder that cannot be made, or is taken") {
    const TempFolder f;
    write_file(f / "file", "x");
    check_refused(tiny_training(trained().data, f / "file"), {"file", "folder"});
    check_refused(tiny_training(trained().data, f / "file/run"), {"file/run"});
    const auto before = contents(trained().run);
    check_refused(tiny_training(trained().data, trained().run), {"holds a run already"});
    CHECK(contents(trained().run) == before);
    for (const char* left : {"run.toml", "metrics.jsonl", "report.html"}) {
      make_directories(f / left);
      write_file(f / left + "/" + left, "x");
      check_refused(tiny_training(trained().data, f / left), {"holds a run already"});
      CHECK(read_file(f / left + "/" + left) == "x");
    }
  }

  TEST_CASE("a folder in which a run ended before its first step can be used again") {
    const TempFolder f;
    const std::string run = f / "run";
    make_directories(run);
    for (const char* name : {"run.toml", "model.json", "tokenizer.json"})
      fs::copy_file(trained().run + "/" + name, run + "/" + name);
    check_refused(tiny_training(trained().data, run), {"holds a run already", "remove it"});
    write_file(run + "/.lock", "");
    write_file(run + "/metrics.jsonl",
               "{\"step\":0,\"val_loss\":3.0}\n{\"step\":1,\"loss\":3.0}\n");
    check_refused(tiny_training(trained().data, run), {"holds a run already", "remove it"});
    write_file(run + "/metrics.jsonl", "{\"step\":0,\"val_loss\":3.0}\n");
    REQUIRE(run_program(tiny_training(trained().data, run)).status == 0);
    CHECK(nn::JsonLines::read(run + "/metrics.jsonl").size() == 41);
    CHECK(read_file(run + "/model.safetensors") == read_file(trained().run + "/model.safetensors"));
  }

  TEST_CASE("a folder in which another process trains") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    const int lock = ::open((run + "/.lock").c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(::flock(lock, LOCK_EX | LOCK_NB) == 0);
    check_refused({"train", "--resume", run, "--steps=50"}, {run, "another process"});
    ::close(lock);
    CHECK(run_program({"train", "--resume", run}).status == 0);
    // A finished run is published again without a trace.
    CHECK_FALSE(fs::exists(run + "/model.safetensors.tmp"));
  }

  TEST_CASE("standard streams that came closed stay out of the run's files") {
    const TempFolder f;
    std::string command = "exec '" OLM_PROGRAM "'";
    for (const std::string& a : tiny_training(trained().data, f / "run")) command += " '" + a + "'";
    CHECK(std::system((command + " <&- >&- 2>&-").c_str()) == 0);
    CHECK(nn::JsonLines::read(f / "run/metrics.jsonl").size() == 41);
  }

  TEST_CASE("a number of threads that is none") {
    for (const char* text : {"2x", "0", "4097", "many"}) {
      ::setenv("OLM_NUM_THREADS", text, 1);
      check_refused({"doctor"}, {"OLM_NUM_THREADS", text});
    }
    ::unsetenv("OLM_NUM_THREADS");
  }

  TEST_CASE("resuming as another run") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    const auto before = contents(run);
    write_file(f / "other.txt", small_text(401));
    auto refuse = [&](const Args& more, const std::vector<std::string>& parts) {
      Args args{"train", "--resume", run};
      args.insert(args.end(), more.begin(), more.end());
      check_refused(args, parts);
      CHECK(contents(run) == before);
    };
    refuse({"--data", f / "other.txt"}, {"another corpus", "other.txt"});
    refuse({"--tokenizer", "byte"}, {"data.tokenizer", "\"char\"", "\"byte\""});
    refuse({"--model.embed_dim", "32"}, {"model.embed_dim", "16", "32"});
    refuse({"--preset", "nano"}, {"--preset"});
    refuse({"--steps", "10"}, {"--steps", "10", "40"});
    refuse({"--minutes", "1"}, {"--minutes"});
    refuse({"--out", f / "else"}, {"--out"});
    check_refused({"train", "--resume", f / "nothing"}, {"nothing", "no run folder"});
    remove_all(run + "/checkpoints");
    check_refused({"train", "--resume", run}, {"holds no checkpoint"});
  }

  TEST_CASE("a run folder whose files were exchanged") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    std::string toml = read_file(run + "/run.toml");
    toml.replace(toml.find("embed_dim = 16"), 14, "embed_dim = 32");
    write_file(run + "/run.toml", toml);
    check_refused({"train", "--resume", run}, {"model.json", "another architecture"});
    fs::copy_file(trained().run + "/run.toml", run + "/run.toml",
                  fs::copy_options::overwrite_existing);
    write_file(run + "/tokenizer.json", "{\"type\": \"byte\"}");
    check_refused({"train", "--resume", run}, {run});
  }

  TEST_CASE("damaged checkpoints and weights") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    const std::string newest = nn::Checkpoints(run).path(40);
    for (const char* name : {"/model.safetensors", "/optimizer.safetensors", "/state.json"}) {
      const std::string file = newest + name, good = read_file(file);
      auto with = [&](const std::string& bytes) {
        write_file(file, bytes);
        check_refused({"train", "--resume", run}, {newest});
      };
      with(good.substr(0, good.size() / 2));
      with("");
      with(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + good.substr(8));
      std::string flipped = good;
      if (std::string(name) != "/state.json") {
        flipped[flipped.size() - 3] ^= 1;
        with(flipped);
      }
      remove_all(file);
      check_refused({"train", "--resume", run}, {newest});
      write_file(file, good);
    }
    write_file(newest + "/state.json", "{\"format\": \"other\"}");
    check_refused({"train", "--resume", run}, {"state.json"});
    // An older checkpoint is still there to go on from.
    remove_all(newest);
    CHECK(run_program({"train", "--resume", run}).status == 0);
    CHECK(read_file(run + "/model.safetensors") == read_file(trained().run + "/model.safetensors"));

    const std::string weights = run + "/model.safetensors", good = read_file(weights);
    for (const std::string& bad : {good.substr(0, 20), good.substr(0, good.size() - 1),
                                   std::string("not weights at all, just text")}) {
      write_file(weights, bad);
      check_refused({"sample", run}, {"model.safetensors"});
      check_refused({"inspect", weights}, {"model.safetensors"});
    }
  }

  TEST_CASE("logs that a report cannot be made of") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    write_file(run + "/samples.jsonl", "{\"step\":20,\"prompt\":1,\"text\":\"a\"}\n");
    check_refused({"train", "--resume", run, "--steps=41"}, {"samples.jsonl: ", "a string"});
  }

  TEST_CASE("a full disk loses nothing") {
    const TempFolder f;
    const std::string run = copy_of(trained().run, f);
    const auto checkpoint = contents(nn::Checkpoints(run).path(40));
    const std::string weights = read_file(run + "/model.safetensors");
    // Weights no longer fit; the log still does.
    const Result r = run_program({"train", "--resume", run, "--steps=60", "--sample-every=0"},
                                 {.file_limit = weights.size() - 100});
    INFO(r.err);
    CHECK(r.status == 1);
    CHECK(r.err.find("File too large") != std::string::npos);
    CHECK(contents(nn::Checkpoints(run).path(40)) == checkpoint);
    CHECK(read_file(run + "/model.safetensors") == weights);
    for (const std::string& file : list_files(run))
      CHECK_MESSAGE(file.find(".tmp") == std::string::npos, file);
    CHECK(nn::Checkpoints(run).steps().back() == 40);
    // With room again the run goes on as if nothing had happened.
    const std::string other = f / "whole";
    fs::copy(trained().run, other, fs::copy_options::recursive);
    CHECK(run_program({"train", "--resume", run, "--steps=60"}).status == 0);
    CHECK(run_program({"train", "--resume", other, "--steps=60"}).status == 0);
    CHECK(read_file(run + "/model.safetensors") == read_file(other + "/model.safetensors"));
    // The smallest limit stops a new run before anything that looks like a model is there.
    check_refused(tiny_training(trained().data, f / "new"), {"File too large"},
                  {.file_limit = 1500});
    CHECK_FALSE(file_exists(f / "new/model.safetensors"));
    CHECK(run_program(tiny_training(trained().data, f / "new")).status == 0);
  }

  TEST_CASE("sampling and measuring what is not there") {
    const TempFolder f;
    check_refused({"sample", f / "none"}, {"none"});
    check_refused({"sample", f.path()}, {"model.json"});
    check_refused({"sample", trained().run, "--prompt", "QZ"}, {"character"});
    check_refused({"sample", trained().run, "--prompt", ""}, {"--prompt"});
    check_refused({"sample", trained().run, "--prompt", "ba", "--prompt", "QZ"},
                  {"--prompt number 2", "character"});
    check_refused({"sample", trained().run, "--prompts", f / "none.txt"}, {"none.txt"});
    write_file(f / "prompts.txt", "ba\n\nlo\n");
    write_file(f / "prompts.jsonl", "\"ba\"\n3\n");
    write_file(f / "empty.txt", "");
    check_refused({"sample", trained().run, "--prompts", f / "prompts.txt"},
                  {"prompts.txt, line 2", "empty"});
    check_refused({"sample", trained().run, "--prompts", f / "prompts.jsonl"},
                  {"prompts.jsonl, line 2", "a string"});
    check_refused({"sample", trained().run, "--prompts", f / "empty.txt"}, {"empty.txt", "prompt"});
    check_refused({"sample", trained().run, "--prompt=ba", "--prompts", f / "prompts.txt"},
                  {"--prompts", "--prompt"});
    check_refused({"sample", trained().run, "--stop", ""}, {"--stop", "one character"});
    CHECK(run_program({"sample", trained().run, "--stop", ""}).out.empty());
    check_refused({"sample", trained().run, "--min-p", "2"}, {"min_p", "0 to 1", "2"});
    check_refused({"sample", trained().run, "--repetition-penalty", "0"}, {"repetition_penalty"});
    check_refused({"sample", trained().run, "--temperature", "-1"}, {"temperature"});
    check_refused({"sample", trained().run, "--top-p", "0"}, {"top_p"});
    check_refused({"sample", trained().run, "--dtype", "f99"}, {"--dtype", "f99"});
    check_refused({"eval", trained().run, "--data", f / "none"}, {"none"});
    write_file(f / "foreign.txt", "abcdefghijk ÄÖÜ");
    check_refused({"eval", trained().run, "--data", f / "foreign.txt"}, {"foreign.txt"});
    const std::string broken = copy_of(trained().run, f);
    std::string weights = read_file(broken + "/model.safetensors");
    for (size_t i = weights.size() - 64; i < weights.size(); ++i) weights[i] = '\xff';  // NaN
    write_file(broken + "/model.safetensors", weights);
    check_refused({"eval", broken, "--data", trained().data}, {broken, "loss", "nan"});
    check_refused({"inspect", f / "none"}, {"none"});
    check_refused({"inspect", f.path()}, {"holds no"});
    write_file(f / "model.json",
               "{\"format\": \"libolm model\", \"version\": 1, "
               "\"model\": {\"type\": \"Warp\", \"options\": {}}}");
    check_refused({"inspect", f / "model.json"}, {"Warp"});
    write_file(f / "bad.json", "{\"type\": ");
    check_refused({"inspect", f / "bad.json"}, {"bad.json"});
    const Result closed = run_program({"sample", trained().run, "--tokens=50"});
    CHECK(closed.status == 0);
  }

  TEST_CASE("keys of a configuration without end") {
    const TempFolder f;
    std::string key = "a";
    for (int i = 0; i < 200000; ++i) key += ".a";
    for (const std::string& text :
         {key + " = 1", "[" + key + "]", "x = {" + key + " = 1}", "\"\\\"\"." + key + " = 1"}) {
      write_file(f / "deep.toml", "# ...\n" + text + "\n");
      check_refused({"train", "--config", f / "deep.toml", "--print-config"},
                    {"deep.toml: not valid TOML at line 2", "a key of more than 1000 parts"});
    }
    write_file(f / "dots.toml", "[sample]\nprompt = \"" + std::string(5000, '.') + "\"\n");
    CHECK(run_program({"train", "--config", f / "dots.toml", "--print-config"}).status == 0);
  }

  TEST_CASE("standard input that cannot be read") {
    for (const char* what : {"encode", "decode"})
      check_refused({"-c", "exec '" OLM_PROGRAM "' tokenizer " + std::string(what) + " '" +
                               trained().run + "' < /"},
                    {"standard input: cannot be read"}, {.program = "/bin/sh"});
  }

  TEST_CASE("tokenizers and ids that do not fit") {
    const TempFolder f;
    const std::string file = f / "tokenizer.json";
    check_refused(
        {"tokenizer", "train", "--data", trained().data, "--kind", "bpe:10", "--out", file},
        {"10"});
    check_refused({"tokenizer", "train", "--data", trained().data, "--kind", "poem", "--out", file},
                  {"poem"});
    CHECK_FALSE(file_exists(file));
    write_file(file, "{\"model\": 3}");
    check_refused({"tokenizer", "encode", file, "--text", "a"}, {"tokenizer.json"});
    check_refused({"tokenizer", "decode", trained().run, "99999"}, {"99999"});
    check_refused({"tokenizer", "decode", trained().run}, {"whole numbers"}, {.input = "1 x"});
  }
}
