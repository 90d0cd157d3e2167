#pragma once
// The configuration of a training run: five sections whose keys are those of run.toml and, written
// --section.key, the flags of `olm train`.
#include <string>
#include <utility>
#include <vector>

#include <olm/nn/fields.h>

namespace olm::tools {

struct ModelConfig {
  std::string family = "gpt2";
  int64_t num_layers = 4;
  int64_t embed_dim = 128;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 0;
  int64_t hidden_dim = 0;
  int64_t max_seq_len = 64;
  double dropout = 0.0;
  bool bias = false;
  bool tie_weights = true;
  double rope_base = 10000.0;
  void fields(auto& v) {
    v("family", family);
    v("num_layers", num_layers);
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("num_kv_heads", num_kv_heads);
    v("hidden_dim", hidden_dim);
    v("max_seq_len", max_seq_len);
    v("dropout", dropout);
    v("bias", bias);
    v("tie_weights", tie_weights);
    v("rope_base", rope_base);
  }
};

struct DataConfig {
  std::string path = {};
  std::string tokenizer = "char";
  double train_fraction = 0.9;
  void fields(auto& v) {
    v("path", path);
    v("tokenizer", tokenizer);
    v("train_fraction", train_fraction);
  }
};

struct OptimConfig {
  std::string optimizer = "adamw";
  double lr = 1e-3;
  double min_lr = 1e-4;
  std::string schedule = "cosine";
  int64_t warmup_steps = 100;
  double decay_fraction = 0.2;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double eps = 1e-8;
  double clip_norm = 1.0;
  void fields(auto& v) {
    v("optimizer", optimizer);
    v("lr", lr);
    v("min_lr", min_lr);
    v("schedule", schedule);
    v("warmup_steps", warmup_steps);
    v("decay_fraction", decay_fraction);
    v("weight_decay", weight_decay);
    v("beta1", beta1);
    v("beta2", beta2);
    v("eps", eps);
    v("clip_norm", clip_norm);
  }
};

struct TrainConfig {
  int64_t steps = 2000;
  double minutes = 0.0;
  int64_t batch_size = 12;
  int64_t accumulation = 1;
  DType dtype = f32;
  int64_t seed = 1;
  int64_t threads = 0;
  int64_t eval_every = 250;
  int64_t sample_every = 500;
  int64_t checkpoint_every = 500;
  double spike_factor = 8.0;
  bool recompute = false;
  std::string out = {};
  std::string init_from = {};
  void fields(auto& v) {
    v("steps", steps);
    v("minutes", minutes);
    v("batch_size", batch_size);
    v("accumulation", accumulation);
    v("dtype", dtype);
    v("seed", seed);
    v("threads", threads);
    v("eval_every", eval_every);
    v("sample_every", sample_every);
    v("checkpoint_every", checkpoint_every);
    v("spike_factor", spike_factor);
    v("recompute", recompute);
    v("out", out);
    v("init_from", init_from);
  }
};

struct SampleConfig {
  std::string prompt = "\n";
  int64_t tokens = 200;
  double temperature = 0.8;
  int64_t top_k = 0;
  double top_p = 1.0;
  int64_t seed = 1;
  void fields(auto& v) {
    v("prompt", prompt);
    v("tokens", tokens);
    v("temperature", temperature);
    v("top_k", top_k);
    v("top_p", top_p);
    v("seed", seed);
  }
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  OptimConfig optim;
  TrainConfig train;
  SampleConfig sample;
  void fields(auto& v) {
    v("model", model);
    v("data", data);
    v("optim", optim);
    v("train", train);
    v("sample", sample);
  }
};

/// One key of the configuration.
struct KeyInfo {
  std::string path;   ///< "train.steps"
  std::string type;   ///< "an integer", "a number", …
  std::string value;  ///< as TOML
  std::string help;
};
/// Every key of a configuration in order.
std::vector<KeyInfo> list_keys(const RunConfig& config);

/// Short names of keys: {"steps", "train.steps"}, ….
const std::vector<std::pair<std::string, std::string>>& aliases();

/// Texts of flags by the path of their key.
using FlagValues = std::vector<std::pair<std::string, std::string>>;

/// Overwrites what a TOML file names. An unknown key or a wrong type throws, naming the file.
void read_toml(const std::string& path, RunConfig& config);
/// Overwrites what flags name.
void read_flags(const FlagValues& flags, RunConfig& config);
/// The configuration as TOML, every key with a comment.
std::string to_toml(const RunConfig& config);
/// Throws one sentence naming the key whose value cannot be, alone or beside the others.
void check(const RunConfig& config);
/// Throws where a text of the configuration is not UTF-8, which a file of it could not hold.
void check_texts(const RunConfig& config);

}  // namespace olm::tools
