#pragma once
// The configuration of a training run: six sections whose keys are those of run.toml and, written
// --section.key, the flags of `olm train`.
#include <string>
#include <utility>
#include <vector>

#include <olm/nn/generate.h>
#include <olm/nn/models.h>
#include <olm/nn/training.h>

namespace olm::tools {

/// [model]: the family, and the members of its configuration; or a model of one's own, layer by
/// layer. vocab_size is none of the keys: it is the tokenizer's.
struct ModelSection {
  nn::ModelConfig config = nn::DecoderConfig{.family = "gpt2",
                                             .vocab_size = 256,
                                             .embed_dim = 128,
                                             .num_layers = 4,
                                             .num_heads = 4,
                                             .max_seq_len = 64,
                                             .dropout = 0,
                                             .bias = false};
  std::string description = {};             ///< path of a model.json, in place of `config`
  std::optional<int64_t> max_seq_len = {};  ///< of a description; what its layers take if empty
  /// Rows of embedding and head where they are not as many as the tokenizer's ids.
  std::optional<int64_t> padded_vocab_size = {};
  void fields(nn::FieldVisitor& v);

  bool is_described() const { return !description.empty(); }
  /// `config` in another family.
  nn::ModelConfig in_family(const std::string& family) const;
  /// For messages: "the model family gpt2", "the model arch.json".
  std::string name() const;
  /// Not filled. Throws where a description has another vocabulary, or layers that do not fit.
  nn::Ref<nn::Module> make(const nn::Tokenizer& tokenizer) const;
  /// Fills by the family's rule; what is described, by GPT-2's.
  void init(nn::Module& model, const nn::InitOptions& options) const;
  /// Tokens of a training sequence.
  int64_t context() const;
  /// Tokens that its layers take at most; 0 where they take any number.
  int64_t longest() const;
};

/// Of activations, in training as in use.
inline nn::FieldInfo activation_dtypes() {
  return {.one_of = {"f32", "bf16"}, .help = "of activations"};
}
/// The dtype of a flag --dtype; throws for another than those.
DType activation_dtype(const std::string& text);

inline nn::FieldInfo device_info() { return {.help = "what computes: cpu, cuda or cuda:N"}; }
/// The device of a flag --device or of what else `where` names; throws for another than those.
Device parse_compute_device(const std::string& text, const std::string& where = "--device");
/// Throws too where this build or machine has no such device.
Device compute_device(const std::string& text, const std::string& where = "--device");

/// No run is longer; sums of steps stay far from overflow.
inline constexpr double kMaxSteps = 1e15;

struct DataConfig {
  std::string path = {};
  std::string tokenizer = "char";
  double train_fraction = 0.9;
  void fields(auto& v) {
    v("path", path, {.help = "training text: a file, or a folder that is read recursively"});
    v("tokenizer", tokenizer,
      {.help = "byte, char, bpe:N with N ids, or the path of a tokenizer or model"});
    v("train_fraction", train_fraction,
      {.min = 0.001,
       .max = 0.999,
       .help = "the front part that is trained on; the rest is for validation"});
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
  double momentum = 0.95;
  double eps = 1e-8;
  double clip_norm = 1.0;
  void fields(auto& v) {
    v("optimizer", optimizer, {.one_of = {"adamw", "muon", "lion", "sgd"}, .help = "update rule"});
    v("lr", lr, {.min = 0, .max = 1e6, .help = "highest learning rate"});
    v("min_lr", min_lr, {.min = 0, .max = 1e6, .help = "learning rate at the end"});
    v("schedule", schedule,
      {.one_of = {"cosine", "linear", "wsd", "constant"},
       .help = "of the learning rate, after the warm-up"});
    v("warmup_steps", warmup_steps,
      {.min = 0, .max = kMaxSteps, .help = "steps of linear warm-up"});
    v("decay_fraction", decay_fraction,
      {.min = 0, .max = 1, .help = "last part of the steps in which wsd decays"});
    v("weight_decay", weight_decay,
      {.min = 0, .max = 1e6, .help = "of matrices; vectors are not decayed"});
    v("beta1", beta1,
      {.min = 0, .max = 0.999999, .help = "decay of the first moment; momentum of sgd"});
    v("beta2", beta2, {.min = 0, .max = 0.999999999, .help = "decay of the second moment"});
    v("momentum", momentum,
      {.min = 0, .max = 0.999999, .help = "of muon's matrices; its other parameters are adamw's"});
    v("eps", eps, {.min = 0, .max = 1, .help = "added to the root of the second moment"});
    v("clip_norm", clip_norm,
      {.min = 0, .max = 1e9, .help = "largest norm of the whole gradient; 0 does not clip"});
  }
};

struct TrainConfig {
  int64_t steps = 2000;
  double minutes = 0.0;
  int64_t batch_size = 12;
  std::optional<int64_t> context = {};
  int64_t accumulation = 1;
  DType dtype = f32;
  std::string device = "cpu";
  int64_t seed = 1;
  int64_t threads = 0;
  int64_t eval_every = 250;
  int64_t sample_every = 500;
  int64_t checkpoint_every = 500;
  double spike_factor = 8.0;
  bool recompute = false;
  std::string out = {};
  std::string init_from = {};
  bool document_mask = false;
  void fields(auto& v) {
    v("steps", steps, {.min = 1, .max = kMaxSteps, .help = "optimizer steps"});
    v("minutes", minutes,
      {.min = 0,
       .max = 1e7,
       .help = "instead of steps: timed steps decide how many fit; 0 is off"});
    v("batch_size", batch_size, {.min = 1, .max = 1000000, .help = "sequences per batch"});
    v("context", context,
      {.min = 1,
       .max = 10000000,
       .help = "tokens of a training sequence, where they are less than model.max_seq_len"});
    v("accumulation", accumulation,
      {.min = 1,
       .max = 1000000,
       .help = "batches per step; up to log2(batches of a rank) + 1 gradients are kept, one where "
               "dist.deterministic is false"});
    v("dtype", dtype, activation_dtypes());
    v("device", device, device_info());
    v("seed", seed, {.min = 0, .help = "of initialisation, shuffling and dropout"});
    v("threads", threads, {.min = 0, .max = 4096, .help = "CPU threads; 0 takes all"});
    v("eval_every", eval_every,
      {.min = 0, .max = kMaxSteps, .help = "steps between evaluations; 0 is never"});
    v("sample_every", sample_every,
      {.min = 0, .max = kMaxSteps, .help = "steps between samples; 0 is never"});
    v("checkpoint_every", checkpoint_every,
      {.min = 0, .max = kMaxSteps, .help = "steps between checkpoints; 0 is at the end only"});
    v("spike_factor", spike_factor,
      {.min = 0, .max = 1e9, .help = "skip a loss this many deviations above its mean; 0 is off"});
    v("recompute", recompute,
      {.help = "compute layers again in backward: less memory, a third more work"});
    v("out", out, {.help = "run folder"});
    v("init_from", init_from,
      {.help = "model whose weights to begin with: a run, a folder of Hugging Face's or a .gguf"});
    v("document_mask", document_mask,
      {.help = "tokens attend within their document alone; <|endoftext|> ends one"});
  }
};

struct SampleConfig {
  std::string prompt = "\n";
  nn::GenerateOptions options = {.temperature = 0.8};
  int64_t seed = 1;
  void fields(auto& v) {
    v("prompt", prompt, {.help = "text that samples continue"});
    options.fields(v);
    v("seed", seed, {.help = "of sampling"});
  }
  /// The options for a model that takes `context` tokens at once, with activations of `dtype`.
  nn::GenerateOptions for_model(int64_t context, DType dtype) const {
    nn::GenerateOptions result = options;
    result.seed = uint64_t(seed);
    result.context = context;
    result.dtype = dtype;
    return result;
  }
};

struct RunConfig {
  ModelSection model = {};
  DataConfig data = {};
  OptimConfig optim = {};
  TrainConfig train = {};
  nn::DistributedOptions dist = {};  // none of it changes what a run is
  SampleConfig sample = {};
  void fields(auto& v) {
    v("model", model);
    v("data", data);
    v("optim", optim);
    v("train", train);
    v("dist", dist);
    v("sample", sample);
  }
};

/// One key of the configuration.
struct KeyInfo {
  std::string path;   ///< "train.steps"
  std::string type;   ///< "an integer", "a number", …
  std::string value;  ///< as TOML; "" where it is left out
  std::string help;   ///< with the range of values
};
/// Every key of a configuration in order.
std::vector<KeyInfo> list_keys(const RunConfig& config);
/// Every key there is, whatever the family, with the default of the first family that has it.
std::vector<KeyInfo> all_keys();

/// Short names of keys: {"steps", "train.steps"}, ….
const std::vector<std::pair<std::string, std::string>>& aliases();

/// Texts of flags by the path of their key.
using FlagValues = std::vector<std::pair<std::string, std::string>>;

/// The sections of a TOML file as JSON. Throws FileError naming line and column.
Json read_toml(const std::string& path);
/// Overwrites what a TOML file names. An unknown key, a wrong type or a value outside its range
/// throws, naming the file. Keys of [model] that earlier versions wrote are understood.
void read_config(const std::string& path, RunConfig& config);
/// Keys that a TOML file does not name, although they have a value in `config`, which was read from
/// it.
std::vector<KeyInfo> keys_left_out(const std::string& path, const RunConfig& config);
/// Overwrites what flags name; a key that the configuration does not have throws.
void read_flags(const FlagValues& flags, RunConfig& config);
/// The configuration as TOML, every key with a comment.
std::string to_toml(const RunConfig& config);
/// Throws where a model of the configuration cannot be.
void check(const RunConfig& config);
/// Throws where a text of the configuration is not UTF-8, which a file of it could not hold.
void check_texts(const RunConfig& config);

}  // namespace olm::tools
