// Descriptions of models: both forms, their errors, and what is refused.
#include <doctest/doctest.h>

#include <olm/engine/allocator.h>
#include <olm/engine/file.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/cost.h>
#include <olm/nn/description.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr const char* kShort = R"({"type": "Block", "blocks": [
  {"type": "Embedding", "embedding_dim": 8},
  {"type": "Repeat", "num_repeat": 3, "stack": {"type": "Block", "blocks": [
    {"type": "Residual", "block": {"type": "Block", "blocks": [
      {"type": "RMSNorm", "dim": 8},
      {"type": "FlashAttentionwithRoPE", "embed_dim": 8, "num_heads": 2, "max_seq_len": 6,
       "causal": true}]}},
    {"type": "Residual", "block": {"type": "Block", "blocks": [
      {"type": "RMSNorm", "dim": 8}, {"type": "SwiGLUFFN", "embed_dim": 8}]}}]}},
  {"type": "OutputHead", "embed_dim": 8, "vocab_size": "auto"}]})";

/// kShort with `from` replaced by `to`.
Json edited(const std::string& from, const std::string& to) {
  std::string text = kShort;
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return Json::parse(text.replace(at, from.size(), to));
}

std::string refusal(const Json& json) {
  return message_of<Error>([&] { build(json, {.vocab_size = 11}); });
}

void check_refused(const Json& json, const std::vector<std::string>& parts) {
  const std::string message = refusal(json);
  for (const std::string& part : parts) {
    INFO(message);
    CHECK_MESSAGE(contains(message, part), part);
  }
}

}  // namespace

TEST_SUITE("nn/description") {
  TEST_CASE("the short form is the long one written shorter") {
    const Ref<Module> model = build(Json::parse(kShort), {.vocab_size = 11});
    CHECK(model->get("blocks.1.stack.2.blocks.1.block.blocks.1")->type_name() == "SwiGLUFFN");
    CHECK(model->parameter("blocks.2.blocks.1.weight").shape() == Shape{11, 8});
    const Json description = describe(*model);
    CHECK(describe(*build(description)) == description);
    const Json brief = shortened(description);
    CHECK(brief.at("blocks").at(1).at("num_repeat") == Json(3));
    CHECK(brief.at("blocks").at(1).at("stack").at("type") == Json("Block"));
    CHECK(describe(*build(brief)) == description);
    CHECK(shortened(describe(*build(brief))) == brief);
  }

  TEST_CASE("every model of the library is the same in the short form") {
    for (const ModelPreset& preset : model_presets()) {
      const Json description = describe(*preset.config.make());
      const Json brief = shortened(description);
      // Layers that are not all alike are listed.
      const DecoderConfig c = preset.config.as<DecoderConfig>().completed();
      const bool alike = !c.sliding_window_pattern && *c.first_k_dense_replace == 0;
      CHECK(int64_t(brief.dump().size()) < (alike ? 3000 : 1000 * c.num_layers));
      CHECK_MESSAGE(describe(*build(Json::parse(brief.dump()))) == description, preset.name);
    }
  }

  TEST_CASE("a stack of unequal layers is listed, and replaced parts of a layer are named") {
    const Ref<Module> model = build(Json::parse(kShort), {.vocab_size = 11});
    model->replace("blocks.1.stack.1.blocks.1.block.blocks.1", ClassicFFN(8));
    model->replace("blocks.1.stack.1.blocks.1.block.blocks.1.act", Ref<Module>(RMSNorm(32)));
    const Json description = describe(*model), brief = shortened(description);
    CHECK(brief.at("blocks").at(1).at("stack").size() == 3);
    CHECK(brief.dump().find(R"("act":{"type":"RMSNorm")") != std::string::npos);
    CHECK(describe(*build(brief)) == description);
    const Json act = Json::parse(R"({"type": "ClassicFFN", "embed_dim": 8,
                                     "act": {"type": "PReLU"}, "hidden_dim": 5})");
    CHECK(build(act)->get("act")->type_name() == "PReLU");
    CHECK(build(Json::parse(R"({"type": "Block", "blocks": []})"))->children().empty());
  }

  TEST_CASE("a file holds a description alone, or with ties and frozen parameters") {
    const TempFolder folder;
    Json file;
    file["model"] = Json::parse(kShort);
    file["tied"]["blocks.2.blocks.1.weight"] = "blocks.0.embedding.weight";
    file["frozen"].push_back("blocks.2.blocks.0.beta");
    const auto read = [&](const std::string& text) {
      return load_architecture(folder.file("model.json", text), {.vocab_size = 11});
    };
    const Ref<Module> plain = read(kShort), tied = read(file.dump());
    CHECK(plain->num_parameters() == tied->num_parameters() + 88);
    CHECK(tied->num_parameters() == tied->num_parameters(true) + 8);
    save_architecture(*tied, folder / "again.json");
    const Ref<Module> again = load_architecture(folder / "again.json");
    CHECK(again->num_parameters() == tied->num_parameters());
    CHECK(again->num_parameters(true) == tied->num_parameters(true));
    CHECK(read_json(folder / "again.json").at("version") == Json(2));
    file["tied"]["blocks.2.blocks.9.weight"] = "blocks.0.embedding.weight";
    CHECK(contains(message_of<FileError>([&] { read(file.dump()); }), "$.tied: "));
    CHECK(contains(message_of<FileError>([&] { read(R"({"model": {}, "extra": 1})"); }), "extra"));
    CHECK(contains(message_of<FileError>([&] { read(R"({"version": 3, "model": {}})"); }),
                   "versions 1 and 2"));
  }

  TEST_CASE("a mistake is named by its place, with what is known there") {
    check_refused(edited("SwiGLUFFN", "SwishFFN"),
                  {"$.blocks[1].stack.blocks[1].block.blocks[1]: unknown layer \"SwishFFN\"",
                   "known are", "SwiGLUFFN"});
    check_refused(
        edited("\"num_heads\": 2", "\"heads\": 2"),
        {"$.blocks[1].stack.blocks[0].block.blocks[1]: ", "unknown key \"heads\"", "num_heads"});
    check_refused(edited("\"dim\": 8", "\"dim\": \"wide\""),
                  {"$.blocks[1].stack.blocks[0].block.blocks[0]: RMSNorm: dim wants an integer"});
    check_refused(edited("\"num_heads\": 2", "\"num_heads\": 3"),
                  {"$.blocks[1].stack.blocks[0].block.blocks[1]: ", "num_heads 3"});
    check_refused(edited("\"embedding_dim\": 8", "\"p\": 8"), {"$.blocks[0]: ", "embedding_dim"});
    check_refused(edited("\"type\": \"Residual\"", "\"typ\": \"Residual\""),
                  {"$.blocks[1].stack.blocks[0]: ", "\"type\""});
    check_refused(edited("\"num_repeat\": 3", "\"num_repeat\": \"3\""),
                  {"$.blocks[1]: Repeat: num_repeat wants an integer", "\"3\""});
    check_refused(edited("\"num_repeat\": 3", "\"num_repeat\": 3, \"share\": 1"), {"share"});
    check_refused(Json::parse(R"({"type": "Block", "blocks": [{"type": "GELU"}, 3]})"),
                  {"$.blocks[1]: wanted a layer as an object, got"});
    check_refused(Json::parse("[]"), {"$: wanted a layer as an object, got an array"});
    CHECK(contains(message_of<Error>([] { build(Json::parse(kShort)); }),
                   "$.blocks[0]: Embedding: vocab_size is missing"));
    check_refused(Json::parse(R"({"type": "Parallel", "merge": "max", "blocks": []})"),
                  {"$: Parallel", "max", "sum, mean, cat (or concat)"});
  }

  TEST_CASE("what is too large is refused before it is made") {
    for (const char* times : {"1000000000", "18446744073709551615", "-1", "1e9"})
      check_refused(edited("\"num_repeat\": 3", std::string("\"num_repeat\": ") + times),
                    {"num_repeat wants an integer from 0 to 100000"});
    check_refused(Json::parse(R"({"type": "Repeat", "num_repeat": 99999, "stack":
        {"type": "Repeat", "num_repeat": 99999, "stack": {"type": "Identity"}}})"),
                  {"more than 100000 layers"});
    check_refused(Json::parse(R"({"type": "ALiBiPositionalBias", "num_heads": 1000000000000})"),
                  {"ALiBi", "num_heads from 1 to 16777216", "1000000000000"});
    for (const char* count : {"num_experts", "num_shared_experts"})
      check_refused(Json::parse(R"({"type": "SwiGLUMoEFFN", "embed_dim": 8, ")" +
                                std::string(count) + "\": 1000000000}"),
                    {"$: SwiGLUMoEFFN", count, "to 100000, got 1000000000"});
    check_refused(Json::parse(R"({"type": "MoERouter", "embed_dim": 8, "use_expert_bias": true,
        "num_experts": 1000000000})"),
                  {"MoERouter", "num_experts", "1000000000"});
    check_refused(Json::parse(R"({"type": "Repeat", "num_repeat": 1000, "stack":
        {"type": "ClassicMoEFFN", "embed_dim": 8, "num_experts": 90000, "hidden_dim": 1}})"),
                  {"$.stack: ClassicMoEFFN", "1000000 modules"});
    Json deep = Json::parse(R"({"type": "Identity"})");
    for (int i = 0; i < 80; ++i) {
      Json outer;
      outer["type"] = "Residual";
      outer["block"] = deep;
      deep = outer;
    }
    check_refused(deep, {"layers nest deeper than 64"});
    check_refused(Json::parse(R"({"type": "Repeat", "num_repeat": 5000, "stack":
        {"type": "Linear", "in_features": 1000000, "out_features": 1000000}})"),
                  {"$.stack: Linear", "1e+15 parameters"});
    check_refused(Json::parse(R"({"type": "Linear", "in_features": 4611686018427387904,
        "out_features": 4611686018427387904})"),
                  {"$: "});
  }

  TEST_CASE("whatever a file holds is a model, or refused, at once") {
    const std::string folder = OLM_FIXTURES "/../fuzz/corpus/model_json";
    int models = 0, refused = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      INFO(file.path().string());
      try {
        const Ref<Module> model = load_architecture(file.path().string(), {.vocab_size = 3});
        CHECK(describe(*build(shortened(describe(*model)))) == describe(*model));
        ++models;
      } catch (const FileError&) {
        ++refused;
      }
    }
    CHECK(models == 6);
    CHECK(refused == 6);
  }

  TEST_CASE("shapes are told layer by layer, and what does not fit by its place") {
    const Ref<Module> model = build(Json::parse(kShort), {.vocab_size = 11});
    const std::vector<TracedLayer> rows = trace(*model, 2, 5);
    CHECK(rows.front().in == Shape{2, 5});
    CHECK(rows.front().out == Shape{2, 5, 11});
    CHECK(rows[1].path == "blocks.0");
    CHECK(rows[1].out == Shape{2, 5, 8});
    CHECK(rows.back().type == "OutputHead");
    CHECK(!model->parameter("blocks.0.embedding.weight").filled());
    const auto wrong = build(
        edited("\"type\": \"RMSNorm\", \"dim\": 8}, {", "\"type\": \"RMSNorm\", \"dim\": 9}, {"),
        {.vocab_size = 11});
    const std::string message = message_of<Error>([&] { trace(*wrong, 1, 2); });
    INFO(message);
    CHECK(message.starts_with("$.blocks[1].stack[0].blocks[1].block.blocks[0]: "));
    CHECK(contains(message, "RMSNorm"));
    CHECK(contains(message, "[1,2,8]"));
    const auto far = build(Json::parse(kShort), {.vocab_size = 11});
    CHECK(contains(message_of<Error>([&] { trace(*far, 1, 7); }), "$.blocks[1].stack[0]"));
  }

  TEST_CASE("costs are those of a real step") {
    DecoderConfig config{.family = "gpt2",
                         .vocab_size = 50,
                         .embed_dim = 32,
                         .num_layers = 2,
                         .num_heads = 4,
                         .max_seq_len = 24,
                         .dropout = 0};
    const Ref<BlockModule> model = GPT2Model(config);
    const CostOptions options{.batch = 3, .context = 24};
    const Cost cost = cost_of(*model, options);
    CHECK(cost.parameters == model->num_parameters());
    CHECK(cost.weights == 4.0 * double(cost.parameters));
    CHECK(cost.training_flops_per_token == 3 * forward_flops_per_token(*model, 24));
    CHECK(cost.kv_cache == 4.0 * 3 * 24 * 2 * 32 * 2);
    // The same step on the CPU, whose allocator rounds up and lends scratch memory.
    init(*model, {.seed = 1});
    const Tensor ids = from_host(std::vector<int64_t>(72, 7), {3, 24});
    const double before = double(memory_stats().in_use);
    reset_peak_memory();
    Context ctx;
    const Tensor loss = model->loss(ids, ids, ctx);
    const double forward = double(memory_stats().peak) - before;
    INFO(forward, " on the CPU, ", cost.activations, " on meta");
    CHECK(cost.activations > 0.7 * forward);
    CHECK(cost.activations < 1.5 * forward);
    // What has no values takes no longer the more there is of it.
    CHECK(cost_of(*model, {.batch = 10000000000000, .context = 24}).activations > 1e13 * 24 * 32);
    const double wide = cost_of(*model, {.batch = 6, .context = 24}).activations;
    CHECK(wide > 1.9 * cost.activations);
    CHECK(cost_of(*model, {.batch = 3, .context = 24, .dtype = bf16}).activations <
          0.8 * cost.activations);
  }
}
