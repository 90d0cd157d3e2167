#include "tools/olm/presets.h"

#include <algorithm>

namespace olm::tools {

namespace {

/// Small enough for minutes on two cores; reads words after a few hundred steps.
RunConfig nano() {
  RunConfig c;
  c.model = {
      .family = "llama", .num_layers = 3, .embed_dim = 96, .num_heads = 3, .max_seq_len = 64};
  c.data.train_fraction = 0.98;
  c.optim = {.lr = 3e-3, .min_lr = 3e-4};
  c.train = {.steps = 2000,
             .batch_size = 16,
             .eval_every = 250,
             .sample_every = 500,
             .checkpoint_every = 500};
  return c;
}

/// nanoGPT's published recipe for a CPU.
RunConfig nanogpt_cpu() {
  RunConfig c;
  c.model = {.num_layers = 4, .embed_dim = 128, .num_heads = 4, .max_seq_len = 64};
  c.train = {.steps = 2000,
             .batch_size = 12,
             .eval_every = 250,
             .sample_every = 500,
             .checkpoint_every = 500};
  return c;
}

/// nanoGPT's published recipe for one GPU.
RunConfig nanogpt_gpu() {
  RunConfig c;
  c.model = {.num_layers = 6, .embed_dim = 384, .num_heads = 6, .max_seq_len = 256, .dropout = 0.2};
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
  c.model = {
      .num_layers = 12, .embed_dim = 768, .num_heads = 12, .max_seq_len = 1024, .bias = true};
  c.data.tokenizer = "bpe:50257";
  return c;
}

RunConfig llama_20m() {
  RunConfig c = large(16, 4, 1e-3, 1e-4, 5000);
  c.model = {.family = "llama",
             .num_layers = 6,
             .embed_dim = 384,
             .num_heads = 6,
             .num_kv_heads = 2,
             .hidden_dim = 1024,
             .max_seq_len = 512};
  c.data.tokenizer = "bpe:24000";
  return c;
}

RunConfig llama_124m() {
  RunConfig c = large(16, 32, 6e-4, 6e-5, 19000);
  c.model = {.family = "llama",
             .num_layers = 12,
             .embed_dim = 768,
             .num_heads = 12,
             .num_kv_heads = 4,
             .hidden_dim = 2560,
             .max_seq_len = 1024};
  return c;
}

std::string cell(const Preset& preset, size_t key) { return list_keys(preset.config)[key].value; }

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

std::string presets_table() {
  const std::vector<KeyInfo> keys = list_keys(presets().front().config);
  std::string out = "| key |", rule = "|---|", same;
  for (const Preset& preset : presets()) {
    out += " " + preset.name + " |";
    rule += "---|";
  }
  out += "\n" + rule + "\n";
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string first = cell(presets().front(), i);
    const bool equal = std::all_of(presets().begin(), presets().end(),
                                   [&](const Preset& p) { return cell(p, i) == first; });
    if (equal) {
      same += (same.empty() ? "" : ", ") + std::string("`") + keys[i].path + " = " + first + "`";
      continue;
    }
    out += "| `" + keys[i].path + "` |";
    for (const Preset& preset : presets()) out += " " + cell(preset, i) + " |";
    out += "\n";
  }
  return out + "\nThe same in all: " + same + ".\n";
}

}  // namespace olm::tools
