// Models of one's own: trained from a description, inspected, and compared.
#include <tests/tools/program.h>

#include <algorithm>

#include <olm/engine/json.h>

using namespace olm;
using namespace olm::test;

namespace {

constexpr const char* kModel = R"({"type": "Block", "blocks": [
  {"type": "Embedding", "embedding_dim": 16},
  {"type": "Repeat", "num_repeat": 2, "stack": {"type": "Block", "blocks": [
    {"type": "Residual", "block": {"type": "Block", "blocks": [
      {"type": "RMSNorm", "dim": 16},
      {"type": "FlashAttentionwithRoPE", "embed_dim": 16, "num_heads": 2, "max_seq_len": 12,
       "causal": true}]}},
    {"type": "Residual", "block": {"type": "Block", "blocks": [
      {"type": "RMSNorm", "dim": 16}, {"type": "SwiGLUFFN", "embed_dim": 16}]}}]}},
  {"type": "OutputHead", "embed_dim": 16, "vocab_size": "auto"}]})";

/// kModel with `from` replaced by `to` wherever it stands.
std::string edited(const std::string& from, const std::string& to) {
  std::string text = kModel;
  size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  for (; at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

Args with_model(const std::string& data, const std::string& model, const std::string& out,
                const Args& more = {}) {
  Args args{"train",
            "--data",
            data,
            "--model",
            model,
            "--out",
            out,
            "--steps=20",
            "--batch-size=4",
            "--optim.warmup_steps=5",
            "--eval-every=10",
            "--sample.tokens=10"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// The losses in a run's log, without the times beside them.
std::vector<double> losses(const std::string& run) {
  std::vector<double> result;
  const std::string text = read_file(run + "/metrics.jsonl");
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const Json line = Json::parse(text.substr(at, end - at));
    for (const char* key : {"loss", "val_loss"})
      if (const Json* value = line.find(key)) result.push_back(value->as_double());
    at = end + 1;
  }
  return result;
}

}  // namespace

TEST_SUITE("tools/architecture") {
  TEST_CASE("a description is trained, sampled from and gone on with") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    write_file(f / "arch.json", kModel);
    const Result r = run_program(with_model(f / "text.txt", f / "arch.json", f / "run"));
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(read_file(f / "run/run.toml").find("description = \"model.json\"") != std::string::npos);
    CHECK(read_file(f / "run/model.json").find("\"num_repeat\": 2") != std::string::npos);
    fs::remove(f / "arch.json");
    fs::rename(f / "run", f / "moved");
    CHECK(run_program({"sample", f / "moved", "--sample.tokens=5"}).status == 0);
    CHECK(run_program({"eval", f / "moved", "--data", f / "text.txt"}).status == 0);
    const Result on = run_program({"train", "--resume", f / "moved", "--steps=30"});
    INFO(on.err);
    CHECK(on.status == 0);
    // What 30 steps in one go give.
    write_file(f / "arch.json", kModel);
    REQUIRE(run_program(with_model(f / "text.txt", f / "arch.json", f / "twice", {"--steps=20"}))
                .status == 0);
    CHECK(losses(f / "twice").size() + 11 == losses(f / "moved").size());
    // Its weights begin another run, and the model is that of the first.
    CHECK(run_program({"train", "--data", f / "text.txt", "--init-from", f / "moved", "--steps=2",
                       "--out", f / "third", "--batch-size=2"})
              .status == 0);
    CHECK(run_program({"train", "--resume", f / "moved", "--model", f / "arch.json"}).status == 1);
  }

  TEST_CASE("the description of a family's model trains to the same bits") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    REQUIRE(run_program(tiny_training(f / "text.txt", f / "family")).status == 0);
    Args described = tiny_training(f / "text.txt", f / "described");
    std::erase_if(described, [](const std::string& a) { return a.starts_with("--model."); });
    described.insert(described.end(), {"--model", f / "family"});
    const Result r = run_program(described);
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(losses(f / "family").size() > 40);
    CHECK(losses(f / "family") == losses(f / "described"));
    CHECK(read_file(f / "family/model.json") == read_file(f / "described/model.json"));
  }

  TEST_CASE("mistakes are named with their place before anything is written") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    const auto refuse = [&](const std::string& text, const std::vector<std::string>& parts,
                            const Args& more = {}) {
      write_file(f / "arch.json", text);
      check_refused(with_model(f / "text.txt", f / "arch.json", f / "run", more), parts);
      CHECK(!fs::exists(f / "run"));
    };
    refuse(edited("SwiGLUFFN", "SwiGLU2"),
           {"arch.json: $.blocks[1].stack.blocks[1].block.blocks[1]", "unknown layer \"SwiGLU2\"",
            "known are"});
    refuse(edited("\"auto\"", "99"),
           {"arch.json", "$.blocks[2]", "99", "tokenizer has", "ids", "auto"});
    refuse(edited("{\"type\": \"RMSNorm\", \"dim\": 16}", "{\"type\": \"RMSNorm\", \"dim\": 8}"),
           {"arch.json", "$.blocks[1].stack[0].blocks[0].block.blocks[0]", "RMSNorm", "16"});
    refuse(edited("\"num_repeat\": 2", "\"num_repeat\": 1000000000"), {"num_repeat", "100000"});
    refuse(
        edited("FlashAttentionwithRoPE\", \"embed_dim\": 16, \"num_heads\": 2, \"max_seq_len\": 12",
               "FlashAttention\", \"embed_dim\": 16, \"num_heads\": 2"),
        {"--context"});
    refuse(kModel, {"12 tokens", "24"}, {"--context=24"});
    refuse(kModel, {"--model.num_layers", "arch.json has no such key"}, {"--model.num_layers=3"});
    refuse("{\"type\": ", {"arch.json", "line 1"});
    refuse("{\"type\": \"\\u001b[31mred\"}", {"unknown layer \"?[31mred\""});
    check_refused({"train", "--model", "gpt9", "--data", f / "text.txt"},
                  {"gpt9", "known are", "nano", "GPT2", "llama"});
    check_refused({"train", "--model", f / "none.json", "--data", f / "text.txt"}, {"none.json"});
    write_file(f / "run.toml",
               "[model]\ndescription = \"" + (f / "arch.json") + "\"\nnum_layers = 3\n");
    check_refused({"train", "--config", f / "run.toml"}, {"num_layers", "known are description"});
  }

  TEST_CASE("a model that takes any length is given one") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    write_file(f / "arch.json",
               R"({"type": "Block", "blocks": [{"type": "Embedding", "embedding_dim": 8},
                   {"type": "MultiHeadAttentionwithALiBi", "embed_dim": 8, "num_heads": 2},
                   {"type": "OutputHead", "embed_dim": 8}]})");
    const Result r = run_program(
        with_model(f / "text.txt", f / "arch.json", f / "run", {"--context=10", "--steps=3"}));
    INFO(r.err);
    CHECK(r.status == 0);
    CHECK(run_program({"train", "--resume", f / "run", "--steps=5"}).status == 0);
  }

  TEST_CASE("what a model takes is told without making it") {
    const TempFolder f;
    write_file(f / "arch.json", kModel);
    const Result text = run_program({"inspect", "--model", f / "arch.json", "--vocab-size", "11"});
    REQUIRE(text.status == 0);
    for (const char* part : {"stack.0..1 × 2", "[1,12] -> [1,12,11]", "KV cache", "moments"})
      CHECK_MESSAGE(text.out.find(part) != std::string::npos, part);
    const Result r = run_program(
        {"inspect", "--model", "Llama3_1_405B", "--json", "--context", "8192", "--dtype", "bf16"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    const Json json = Json::parse(r.out);
    CHECK(json.at("parameters").as_int() > 400'000'000'000);
    CHECK(json.at("bytes").at("weights").as_double() == 4 * json.at("parameters").as_double());
    // Keys and values of 8 heads of 128 in 126 layers, two bytes each.
    CHECK(json.at("bytes").at("kv_cache").as_double() == 2.0 * 126 * 8192 * 8 * 128 * 2);
    CHECK(json.at("layers").at(1).at("path") == Json("$.blocks[0]"));
    for (const char* name : {"nano", "GPT2", "llama"})
      CHECK(run_program({"inspect", "--model", name, "--context", "16"}).status == 0);
    check_refused({"inspect", "--model", f / "arch.json", "--context", "13"},
                  {"$.blocks[1]", "12"});
  }

  TEST_CASE("variants are trained by turns on the same batches and compared") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    write_file(f / "base.json", kModel);
    write_file(f / "copy.json", kModel);
    write_file(f / "layer,norm.json", edited("RMSNorm", "LayerNorm"));
    const Result r = run_program({"ablate", f / "base.json", f / "copy.json", f / "layer,norm.json",
                                  "--data", f / "text.txt", "--steps=25", "--slice=10",
                                  "--batch-size=4", "--eval-every=10", "--sample-every=10",
                                  "--sample.tokens=5", "--out", f / "cmp"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(losses(f / "cmp/base").size() == 25 + 4);
    // What is due where a turn ends is made in that turn, and stands beside its step.
    const std::string log = read_file(f / "cmp/base/metrics.jsonl");
    CHECK(std::count(log.begin(), log.end(), '\n') == 1 + 25);
    CHECK(losses(f / "cmp/base") == losses(f / "cmp/copy"));
    CHECK(losses(f / "cmp/base") != losses(f / "cmp/layer,norm"));
    CHECK(r.out.find("at step 25") != std::string::npos);
    // Turns change nothing: the same run alone.
    REQUIRE(run_program(with_model(f / "text.txt", f / "base.json", f / "alone",
                                   {"--steps=25", "--optim.warmup_steps=100", "--sample-every=10"}))
                .status == 0);
    CHECK(losses(f / "alone") == losses(f / "cmp/base"));
    const Json results = read_json(f / "cmp/results.json");
    CHECK(results.at("variants").size() == 3);
    const Json &one = results.at("variants").at(0), &other = results.at("variants").at(2);
    CHECK(one.at("final_loss") == one.at("loss_at_equal_steps"));
    CHECK(one.at("loss_at_equal_time").is_number());
    CHECK(other.at("parameters").as_int() == one.at("parameters").as_int() + 4 * 16);
    const std::string csv = read_file(f / "cmp/results.csv");
    CHECK(csv.starts_with("name,parameters,flops_per_token"));
    CHECK(csv.find("\"layer,norm\",") != std::string::npos);
    const std::string page = read_file(f / "cmp/report.html");
    CHECK(page.find("http") == std::string::npos);
    CHECK(page.find("layer,norm") != std::string::npos);
    CHECK(run_program({"sample", f / "cmp/copy", "--sample.tokens=5"}).status == 0);
    CHECK(run_program({"train", "--resume", f / "cmp/copy", "--steps=30"}).status == 0);
    CHECK(run_program({"inspect", f / "cmp/copy"}).status == 0);
  }

  TEST_CASE("a variant that takes any length reads the batches of the others") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    write_file(f / "base.json", kModel);
    write_file(f / "alibi.json", edited("FlashAttentionwithRoPE", "MultiHeadAttentionwithALiBi"));
    for (const bool first : {true, false}) {
      const std::string out = f / (first ? "first" : "second");
      const Result r = run_program({"ablate", f / (first ? "alibi.json" : "base.json"),
                                    f / (first ? "base.json" : "alibi.json"), "--data",
                                    f / "text.txt", "--steps=4", "--batch-size=4", "--out", out});
      INFO(r.err);
      REQUIRE(r.status == 0);
      CHECK(losses(out + "/alibi").size() == 4 + 2);
    }
    CHECK(losses(f / "first/alibi") == losses(f / "second/alibi"));
    check_refused({"ablate", f / "alibi.json", f / "alibi.json", "--data", f / "text.txt"},
                  {"alibi.json", "max_seq_len", "--context"});
  }

  TEST_CASE("a comparison that was stopped goes on as if it had not been") {
    const TempFolder f;
    write_file(f / "text.txt", small_text());
    write_file(f / "a.json", kModel);
    write_file(f / "b.json", edited("RMSNorm", "LayerNorm"));
    const Args args{"ablate",           f / "a.json",      f / "b.json", "--data",
                    f / "text.txt",     "--steps=300",     "--slice=20", "--batch-size=4",
                    "--eval-every=100", "--sample-every=0"};
    Args whole = args, parts = args;
    whole.insert(whole.end(), {"--out", f / "whole"});
    parts.insert(parts.end(), {"--out", f / "parts"});
    REQUIRE(run_program(whole).status == 0);
    bool sent = false;
    const Result stopped = run_program(parts, {.watch = [&](pid_t child) {
                                         if (sent || !fs::exists(f / "parts/a/checkpoints/000040"))
                                           return;
                                         sent = true;
                                         ::kill(child, SIGKILL);
                                       }});
    if (stopped.status != 0) {
      const Result on = run_program({"ablate", "--resume", f / "parts", "--slice=30"});
      INFO(on.err);
      REQUIRE(on.status == 0);
    }
    for (const char* name : {"/a", "/b"})
      CHECK(losses((f / "parts") + name) == losses((f / "whole") + name));
    check_refused({"ablate", "--resume", f / "whole/a"}, {"holds no comparison"});
    // Variants keep out of the comparison's own files, and of its folder and the one above.
    fs::create_directories(f / "names");
    for (const char* name : {"..json", "...json", "report.html.json"})
      write_file((f / "names/") + name, kModel);
    const Result named = run_program(
        {"ablate", f / "names/..json", f / "names/...json", f / "names/report.html.json", "--data",
         f / "text.txt", "--steps=2", "--batch-size=4", "--sample-every=0", "--out", f / "cmp"});
    INFO(named.err);
    CHECK(named.status == 0);
    for (const char* name : {"variant", "variant-2", "report.html-2"})
      CHECK(fs::exists((f / "cmp/") + name + "/model.safetensors"));
    CHECK(!fs::exists(f / "cmp/model.safetensors"));
    CHECK(!fs::exists(f / "model.safetensors"));
    check_refused({"ablate", "--resume", f / "whole", "--steps=400"}, {"--resume"});
    check_refused(whole, {"holds a run already"});
    check_refused({"ablate", f / "a.json", "--data", f / "text.txt"}, {"at least two variants"});
    check_refused({"ablate", f / "a.json", "nano", "--data", f / "text.txt", "--out", f / "x"},
                  {"nano has a context of 64", "a one of 12", "--context"});
  }
}
