#include "tools/olm/presets.h"

#include <algorithm>

#include <olm/engine/file.h>

#include "tools/olm/machine.h"

namespace olm::tools {

namespace {

/// Small enough for minutes on two cores; reads words after a few hundred steps.
RunConfig nano() {
  RunConfig c;
  c.model.config = nn::DecoderConfig{.family = "llama",
                                     .vocab_size = 256,
                                     .embed_dim = 96,
                                     .num_layers = 3,
                                     .num_heads = 3,
                                     .max_seq_len = 64,
                                     .dropout = 0};
  c.data.train_fraction = 0.98;
  c.optim = {.lr = 3e-3, .min_lr = 3e-4};
  c.train = {.steps = 2000,
             .batch_size = 16,
             .eval_every = 250,
             .sample_every = 500,
             .checkpoint_every = 500};
  return c;
}

/// nanoGPT's published recipe for a CPU, which is also what there is without a preset.
RunConfig nanogpt_cpu() { return {}; }

/// nanoGPT's published recipe for one GPU.
RunConfig nanogpt_gpu() {
  RunConfig c;
  c.model.config = nn::DecoderConfig{.family = "gpt2",
                                     .vocab_size = 256,
                                     .embed_dim = 384,
                                     .num_layers = 6,
                                     .num_heads = 6,
                                     .max_seq_len = 256,
                                     .dropout = 0.2,
                                     .bias = false};
  c.train = {.steps = 5000,
             .batch_size = 64,
             .eval_every = 250,
             .sample_every = 500,
             .checkpoint_every = 500};
  return c;
}

/// What the larger ones have in common: half a million tokens per step, GPT-3's AdamW.
RunConfig large(int64_t batch, int64_t accumulation, double lr, double min_lr, int64_t steps) {
  RunConfig c;
  c.data.tokenizer = "bpe:32000";
  c.data.train_fraction = 0.99;
  c.optim = {.lr = lr, .min_lr = min_lr, .warmup_steps = 700, .beta2 = 0.95};
  c.train = {.steps = steps,
             .batch_size = batch,
             .accumulation = accumulation,
             .dtype = bf16,
             .eval_every = 500,
             .sample_every = 500,
             .checkpoint_every = 500};
  c.sample.prompt = "The";
  return c;
}

RunConfig gpt2_124m() {
  RunConfig c = large(16, 32, 6e-4, 6e-5, 19000);
  c.model.config = nn::model_preset("GPT2");
  c.model.config.as<nn::DecoderConfig>().dropout = 0;
  c.data.tokenizer = "bpe:50257";
  return c;
}

RunConfig llama_20m() {
  RunConfig c = large(16, 4, 1e-3, 1e-4, 5000);
  c.model.config = nn::DecoderConfig{.family = "llama",
                                     .vocab_size = 256,
                                     .embed_dim = 384,
                                     .intermediate_size = 1024,
                                     .num_layers = 6,
                                     .num_heads = 6,
                                     .num_kv_heads = 2,
                                     .max_seq_len = 512,
                                     .dropout = 0};
  c.data.tokenizer = "bpe:24000";
  return c;
}

RunConfig llama_124m() {
  RunConfig c = large(16, 32, 6e-4, 6e-5, 19000);
  c.model.config = nn::DecoderConfig{.family = "llama",
                                     .vocab_size = 256,
                                     .embed_dim = 768,
                                     .intermediate_size = 2560,
                                     .num_layers = 12,
                                     .num_heads = 12,
                                     .num_kv_heads = 4,
                                     .max_seq_len = 1024,
                                     .dropout = 0};
  return c;
}

/// The value of a key; "" where the configuration's family has no such key, or it is left out.
std::string cell(const RunConfig& config, const std::string& path) {
  for (const KeyInfo& key : list_keys(config))
    if (key.path == path) return key.value;
  return "";
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> table = {
      {"nano", "a small Llama for a few minutes on two cores", nano()},
      {"nanogpt-cpu", "nanoGPT's character model for a CPU", nanogpt_cpu()},
      {"nanogpt-gpu", "nanoGPT's character model for a GPU", nanogpt_gpu()},
      {"gpt2-124m", "GPT-2 small", gpt2_124m()},
      {"llama-20m", "a Llama with grouped queries, 20 million parameters", llama_20m()},
      {"llama-124m", "a Llama the size of GPT-2 small", llama_124m()},
  };
  return table;
}

const Preset& find_preset(const std::string& name) {
  std::string known;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
    known += (known.empty() ? "" : ", ") + preset.name;
  }
  fail("--preset: unknown preset \"", name, "\"; known are ", known);
}

ModelSection find_model(const std::string& name, const ModelSection& usual) {
  ModelSection model = usual;
  model.description.clear();
  model.max_seq_len.reset();
  const bool folder = folder_exists(name);
  if (folder || name.ends_with(".json")) {
    model.description = folder ? name + "/model.json" : name;
    if (!file_exists(model.description))
      throw FileError(name, folder ? ": holds no model.json" : ": there is no such file");
    return model;
  }
  std::string known;
  const auto is = [&](const std::string& other) {
    known += (known.empty() ? "" : ", ") + other;
    return name == other;
  };
  for (const Preset& preset : presets())
    if (is(preset.name)) return preset.config.model;
  for (const std::string& model : nn::model_names())
    if (is(model)) return {.config = nn::model_preset(model)};
  for (const std::string& family : nn::families().names())
    if (is(family)) return {.config = model.in_family(family)};
  fail("--model: \"", name,
       "\" is no .json file, no run folder, and no name of a model; known are ", known);
}

std::string presets_table() {
  std::string out = "| key |", rule = "|---|", same;
  for (const Preset& preset : presets()) {
    out += " " + preset.name + " |";
    rule += "---|";
  }
  out += "\n" + rule + "\n";
  for (const KeyInfo& key : all_keys()) {
    const std::string first = cell(presets().front().config, key.path);
    const bool equal = std::all_of(presets().begin(), presets().end(), [&](const Preset& p) {
      return cell(p.config, key.path) == first;
    });
    if (equal) {
      if (!first.empty())
        same += (same.empty() ? "" : ", ") + std::string("`") + key.path + " = " + first + "`";
      continue;
    }
    out += "| `" + key.path + "` |";
    for (const Preset& preset : presets()) out += " " + cell(preset.config, key.path) + " |";
    out += "\n";
  }
  return out + "\nThe same in all: " + same + ".\n";
}

std::string models_table() {
  const char* keys[] = {"family",    "num_layers",   "embed_dim",
                        "num_heads", "num_kv_heads", "max_seq_len"};
  std::string out = "| model |", rule = "|---|";
  for (const char* key : keys) {
    out += std::string(" `") + key + "` |";
    rule += "---|";
  }
  out += " parameters |\n" + rule + "---|\n";
  for (const nn::ModelPreset& preset : nn::model_presets()) {
    RunConfig config;
    config.model.config = preset.config;
    out += "| " + preset.name + " |";
    for (const char* key : keys) out += " " + cell(config, std::string("model.") + key) + " |";
    out += " " + grouped(preset.config.make()->num_parameters()) + " |\n";
  }
  return out;
}

}  // namespace olm::tools
