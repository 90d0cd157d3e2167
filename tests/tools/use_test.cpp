// olm sample, eval, inspect, tokenizer on a trained run.
#include <cmath>

#include <olm/engine/safetensors.h>
#include <olm/nn/training.h>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Trained {
  TempFolder folder;
  std::string data = folder / "text.txt", run = folder / "run";
  Trained() {
    write_file(data, small_text());
    REQUIRE(run_program(tiny_training(data, run, {"--lr=0.01", "--steps=200"})).status == 0);
  }
};
const Trained& trained() {
  static const Trained instance;
  return instance;
}

std::string sampled(const Args& more) {
  Args args{"sample", trained().run, "--prompt", "mira "};
  args.insert(args.end(), more.begin(), more.end());
  const Result r = run_program(args);
  INFO(r.err);
  CHECK(r.status == 0);
  return r.out;
}

double number_after(const std::string& text, const std::string& key) {
  const size_t at = text.find(key);
  REQUIRE(at != std::string::npos);
  return std::stod(text.substr(at + key.size()));
}

}  // namespace

TEST_SUITE("tools/use") {
  TEST_CASE("samples begin with the prompt, depend on the seed, and need no cache") {
    const std::string a = sampled({"--tokens=100", "--seed=1"});
    CHECK(a.starts_with("mira "));
    CHECK(a.size() == 5 + 100 + 1);
    CHECK(a == sampled({"--tokens=100", "--seed=1"}));
    CHECK(a != sampled({"--tokens=100", "--seed=2"}));
    CHECK(a == sampled({"--tokens=100", "--seed=1", "--no-cache"}));
    CHECK(sampled({"--temperature=0", "--seed=1"}) == sampled({"--temperature=0", "--seed=2"}));
    CHECK(sampled({"--top-k=1", "--seed=1"}) == sampled({"--temperature=0"}));
    CHECK(sampled({"--tokens=0"}) == "mira \n");
    // The context is 16: five tokens of prompt leave room for eleven.
    CHECK(sampled({"--tokens=100", "--stop-when-full"}).size() == 5 + 11 + 1);
  }

  TEST_CASE("several prompts are sampled as each alone") {
    const std::string one = sampled({"--tokens=30"});
    const auto run = [&](const Args& more) {
      Args args{"sample", trained().run, "--tokens=30"};
      args.insert(args.end(), more.begin(), more.end());
      const Result r = run_program(args);
      INFO(r.err);
      CHECK(r.status == 0);
      return r.out;
    };
    const std::string other = run({"--prompt", "suro"});
    const std::string both = "==> 1 of 2 <==\n" + one + "==> 2 of 2 <==\n" + other;
    CHECK(run({"--prompt", "mira ", "--prompt", "suro"}) == both);
    write_file(trained().folder / "prompts.txt", "mira \nsuro");
    write_file(trained().folder / "prompts.jsonl", "\"mira \"\r\n\"suro\"\n");
    CHECK(run({"--prompts", trained().folder / "prompts.txt"}) == both);
    CHECK(run({"--prompts", trained().folder / "prompts.jsonl"}) == both);
  }

  TEST_CASE("a text ends before a stop string, and options change what is drawn") {
    const std::string whole = sampled({"--tokens=60", "--seed=1"});
    const std::string stop = whole.substr(30, 3);
    CHECK(sampled({"--tokens=60", "--seed=1", "--stop", "QQ", "--stop", stop}) ==
          whole.substr(0, whole.find(stop, 5)) + "\n");
    CHECK(sampled({"--tokens=60", "--min-p=1", "--seed=1"}) ==
          sampled({"--tokens=60", "--temperature=0"}));
    CHECK(sampled({"--tokens=60", "--temperature=0", "--repetition-penalty=2"}) !=
          sampled({"--tokens=60", "--temperature=0"}));
  }

  TEST_CASE("log-probabilities are lines of JSON") {
    const std::string text = sampled({"--tokens=12"});
    const Json line = Json::parse(sampled({"--tokens=12", "--logprobs"}));
    CHECK(line.at("prompt") == Json("mira "));
    CHECK("mira " + line.at("text").as_string() + "\n" == text);
    CHECK(line.at("ended_by") == Json("tokens"));
    std::string joined;
    for (const Json& token : line.at("tokens").items()) {
      joined += token.at("text").as_string();
      CHECK(token.at("logprob").as_double() <= 0);
      CHECK(token.at("id").is_integer());
    }
    CHECK(joined == line.at("text").as_string());
    const Json full = Json::parse(sampled({"--tokens=100", "--stop-when-full", "--logprobs"}));
    CHECK(full.at("ended_by") == Json("context"));
  }

  TEST_CASE("evaluation prints JSON") {
    const Args args{"eval", trained().run, "--data", trained().data};
    const std::string text = run_program(args).out;
    const Json json = Json::parse(run_program({args[0], args[1], args[2], args[3], "--json"}).out);
    const double loss = json.at("loss").as_double();
    CHECK(std::abs(loss - number_after(text, "loss ")) < 1e-4);
    CHECK(json.at("perplexity").as_double() == doctest::Approx(std::exp(loss)));
    CHECK(json.at("bits_per_byte").as_double() == doctest::Approx(loss / std::log(2.0)));
    CHECK(json.at("context") == Json(16));
    CHECK(json.at("tokens").as_int() > 1000);
  }

  TEST_CASE("evaluation agrees with training") {
    const Result r = run_program({"eval", trained().run, "--data", trained().data});
    REQUIRE(r.status == 0);
    const double loss = number_after(r.out, "loss "), bits = number_after(r.out, "bits per byte ");
    CHECK(std::abs(number_after(r.out, "perplexity ") - std::exp(loss)) < 1e-3 * std::exp(loss));
    CHECK(std::abs(bits - loss / std::log(2.0)) < 1e-3);  // one byte per character here
    // The validation part alone gives the loss of the last evaluation.
    const std::string text = small_text();
    write_file(trained().folder / "val.txt", text.substr(size_t(0.9 * double(text.size()))));
    const Json val = Json::parse(
        run_program({"eval", trained().run, "--data", trained().folder / "val.txt", "--json"}).out);
    const auto lines = nn::JsonLines::read(trained().run + "/metrics.jsonl");
    // A training's validation has no first token, which no other one predicts here.
    const double tokens = val.at("tokens").as_double();
    const double ids = double(nn::load_tokenizer(trained().run)->vocab_size());
    const double without = (val.at("loss").as_double() * tokens - std::log(ids)) / (tokens - 1);
    CHECK(without == doctest::Approx(lines.back().at("val_loss").as_double()).epsilon(1e-5));
  }

  TEST_CASE("documents are masked in training and evaluation where the run says so") {
    const TempFolder f;
    const std::string text = small_text();
    make_directories(f / "data");
    for (size_t i = 0; i < 60; ++i)  // shorter than the context of 16
      write_file(f / ("data/" + std::to_string(100 + i)), text.substr(9 * i, 9));
    const auto trained_with = [&](const std::string& run, const Args& more) {
      const Result r = run_program(tiny_training(f / "data", f / run, more));
      INFO(r.err);
      REQUIRE(r.status == 0);
      const Result eval = run_program({"eval", f / run, "--data", f / "data"});
      REQUIRE(eval.status == 0);
      return number_after(eval.out, "loss ");
    };
    const Args masked = {"--train.document_mask=true", "--steps=3"};
    const double across = trained_with("across", {"--steps=3"});
    const double within = trained_with("within", masked);
    CHECK(read_file(f / "within/run.toml").find("document_mask = true") != std::string::npos);
    CHECK(across != within);
    const std::string toml = read_file(f / "within/run.toml");
    std::string off = toml;
    off.replace(off.find("document_mask = true"), 20, "document_mask = false");
    write_file(f / "within/run.toml", off);
    CHECK(number_after(run_program({"eval", f / "within", "--data", f / "data"}).out, "loss ") !=
          within);
    write_file(f / "within/run.toml", toml);
    const Result changed = run_program(
        {"train", "--resume", f / "within", "--train.document_mask=false", "--steps=4"});
    CHECK(changed.status != 0);
    CHECK(changed.err.find("train.document_mask") != std::string::npos);
    // One text by characters has no end of text.
    write_file(f / "one.txt", text);
    const Result none = run_program(tiny_training(f / "one.txt", f / "none", masked));
    CHECK(none.status != 0);
    CHECK(none.err.find("<|endoftext|>") != std::string::npos);
    CHECK_FALSE(file_exists(f / "none"));
  }

  TEST_CASE("inspect shows architecture, keys, shapes and sizes") {
    const Result r = run_program({"inspect", trained().run});
    REQUIRE(r.status == 0);
    for (const char* part :
         {"Embedding", "FlashAttention", "q_proj: Linear  weight [16,16]", "tensors of F32",
          "tied to blocks.0.blocks.0.embedding.weight", "checkpoint: step 200 of 200", "char"})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
    // The tree shows the weights; a file alone is listed in full, and so is a folder without it.
    const std::string key = "q_proj.weight";
    CHECK(r.out.find(key) == std::string::npos);
    const Result file = run_program({"inspect", trained().run + "/model.safetensors"});
    CHECK(file.status == 0);
    CHECK(file.out.find(key) != std::string::npos);
    const TempFolder bare;
    fs::copy_file(trained().run + "/model.safetensors", bare / "model.safetensors");
    CHECK(run_program({"inspect", bare.path()}).out.find(key) != std::string::npos);
    CHECK(run_program({"inspect", trained().run + "/model.json"}).status == 0);
    CHECK(run_program({"inspect", trained().run + "/tokenizer.json"}).status == 0);
  }

  TEST_CASE("inspect lists tensors of types that libolm does not know") {
    const std::string header =
        R"({"c":{"dtype":"C64","shape":[1],"data_offsets":[0,8]},)"
        R"("f":{"dtype":"F4\u001b","shape":[1,1,1,1,1,1,1,1,1,2],"data_offsets":[8,9]}})";
    const uint64_t length = header.size();
    std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
    const std::string file = trained().folder / "types.safetensors";
    write_file(file, bytes + header + std::string(9, '\0'));
    const Result r = run_program({"inspect", file});
    REQUIRE(r.status == 0);
    for (const char* part : {"C64", "F4\\x1b", "[1,1,1,1,1,1,1,1,1,2]", "2 tensors", "3 elements"})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
  }

  TEST_CASE("inspect shows no control characters of a file") {
    const std::string file = trained().folder / "hostile.safetensors";
    const std::string bad =
        "a\x1b[2J\r\n\t\x7f\xc2\x9b"
        "31mü";
    write_safetensors(file, {{bad, ones({2})}}, {{bad, bad}});
    const Result r = run_program({"inspect", file});
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(r.out.find("  1 tensor of F32, ") != std::string::npos);
    const std::string shown = "a\\x1b[2J\\x0d\\x0a\\x09\\x7f\\xc2\\x9b31mü";
    CHECK(r.out.find("  " + shown + " ") != std::string::npos);
    CHECK(r.out.find("metadata " + shown + ": " + shown + "\n") != std::string::npos);
    for (const char c : r.out) CHECK((uint8_t(c) >= 0x20 || c == '\n'));
  }

  TEST_CASE("tokenizers are trained and used") {
    const std::string file = trained().folder / "bpe.json";
    const Result r = run_program(
        {"tokenizer", "train", "--data", trained().data, "--kind", "bpe:280", "--out", file});
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(r.out.find("bytes per token") != std::string::npos);
    const Result ids = run_program({"tokenizer", "encode", file, "--text", "mira suro über"});
    const Result text = run_program({"tokenizer", "decode", file}, {.input = ids.out});
    CHECK(text.out == "mira suro über\n");
    const Result piped = run_program({"tokenizer", "encode", file}, {.input = "mira suro über"});
    CHECK(piped.out == ids.out);
    const Result run = run_program(
        tiny_training(trained().data, trained().folder / "with_bpe", {"--tokenizer", file}));
    INFO(run.err);
    CHECK(run.status == 0);
    CHECK(read_file(trained().folder / "with_bpe/tokenizer.json") == read_file(file));
  }

  TEST_CASE("a byte-order mark at the start of a text changes nothing") {
    const TempFolder f;
    const std::string mark = "\xef\xbb\xbf", text = small_text();
    write_file(f / "marked.txt", mark + text);
    write_file(f / "marked.toml", mark + "[model]\nnum_layers = 1\n");
    const std::string run = f / "run";
    const Result r = run_program(tiny_training(
        f / "marked.txt", run,
        {"--lr=0.01", "--steps=20", "--eval-every=20", "--config", f / "marked.toml"}));
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(read_file(run + "/tokenizer.json") == read_file(trained().run + "/tokenizer.json"));
    // Everything but the time.
    const auto figures = [&](const std::string& data) {
      const Result e = run_program({"eval", run, "--data", data});
      CHECK(e.status == 0);
      return e.out.substr(0, e.out.find("time"));
    };
    CHECK(figures(f / "marked.txt") == figures(trained().data));
    for (const char* first : {"", "\xef\xbb\xbf"})
      CHECK(run_program({"tokenizer", "encode", run}, {.input = first + std::string("mira")}).out ==
            run_program({"tokenizer", "encode", run, "--text", "mira"}).out);
  }
}
