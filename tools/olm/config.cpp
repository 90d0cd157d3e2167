#include "tools/olm/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include <olm/engine/json.h>
#include <olm/engine/utf8.h>

namespace olm::tools {

namespace {

using nn::FieldVisitor;

/// A TOML string: JSON's escapes are TOML's too, which also wants DEL escaped.
std::string quoted(const std::string& text) {
  std::string out = Json(text).dump();
  for (size_t at = out.find('\x7f'); at != std::string::npos; at = out.find('\x7f', at))
    out.replace(at, 1, "\\u007f");
  return out;
}

std::string number_text(double value) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  std::string text(digits, size_t(end - digits));
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

/// Visits with the dotted path of each member.
class PathVisitor : public FieldVisitor {
 public:
  void begin_group(const char* name) override { groups_.push_back(name); }
  void end_group() override { groups_.pop_back(); }

 protected:
  std::string path(const char* name) const {
    std::string result;
    for (const std::string& group : groups_) result += group + ".";
    return result + name;
  }

 private:
  std::vector<std::string> groups_;
};

class Lister final : public PathVisitor {
 public:
  void field(const char* name, bool& v) override {
    add(name, "true or false", v ? "true" : "false");
  }
  void field(const char* name, int64_t& v) override { add(name, "an integer", std::to_string(v)); }
  void field(const char* name, double& v) override { add(name, "a number", number_text(v)); }
  void field(const char* name, std::string& v) override { add(name, "a string", quoted(v)); }
  void field(const char* name, DType& v) override { add(name, "a dtype", quoted(name_of(v))); }
  void field(const char* name, std::vector<int64_t>&) override {
    add(name, "a list of integers", "");
  }
  void field(const char* name, std::optional<bool>&) override { add(name, "true or false", ""); }
  void field(const char* name, std::optional<int64_t>&) override { add(name, "an integer", ""); }
  void field(const char* name, std::optional<double>&) override { add(name, "a number", ""); }
  std::vector<KeyInfo> keys;

 private:
  void add(const char* name, const char* type, std::string value) {
    keys.push_back({path(name), type, std::move(value), {}});
  }
};

/// Fills members from the texts of flags.
class FlagReader final : public PathVisitor {
 public:
  explicit FlagReader(const FlagValues& flags) {
    for (const auto& [key, text] : flags) texts_[key] = text;
  }
  void field(const char* name, bool& v) override {
    if (const std::string* text = find(name)) {
      if (*text != "true" && *text != "false") wrong(name, *text, "true or false");
      v = *text == "true";
    }
  }
  void field(const char* name, int64_t& v) override { number(name, v, "an integer"); }
  void field(const char* name, double& v) override { number(name, v, "a number"); }
  void field(const char* name, std::string& v) override {
    if (const std::string* text = find(name)) v = *text;
  }
  void field(const char* name, DType& v) override {
    if (const std::string* text = find(name)) v = nn::parse_dtype(*text, "--" + path(name));
  }
  void field(const char* name, std::vector<int64_t>&) override { unsupported(name); }
  void field(const char* name, std::optional<bool>&) override { unsupported(name); }
  void field(const char* name, std::optional<int64_t>&) override { unsupported(name); }
  void field(const char* name, std::optional<double>&) override { unsupported(name); }

 private:
  const std::string* find(const char* name) const {
    const auto found = texts_.find(path(name));
    return found == texts_.end() ? nullptr : &found->second;
  }
  [[noreturn]] void wrong(const char* name, const std::string& text, const char* wanted) const {
    fail("--", path(name), ": wants ", wanted, ", got \"", text, "\"");
  }
  void unsupported(const char* name) const {
    require(!find(name), "--", path(name), ": can be set in a file only");
  }
  template <class T>
  void number(const char* name, T& value, const char* wanted) const {
    const std::string* text = find(name);
    if (!text) return;
    const char* end = text->data() + text->size();
    const auto [at, error] = std::from_chars(text->data(), end, value);
    if (error != std::errc() || at != end) wrong(name, *text, wanted);
  }
  std::map<std::string, std::string> texts_;
};

const std::map<std::string, std::string>& helps() {
  static const std::map<std::string, std::string> table = {
      {"model.family",
       "gpt2 (learned positions, LayerNorm, GELU) or llama (RoPE, RMSNorm, SwiGLU)"},
      {"model.num_layers", "transformer layers"},
      {"model.embed_dim", "width"},
      {"model.num_heads", "attention heads; must divide embed_dim"},
      {"model.num_kv_heads", "key and value heads of llama; 0 means num_heads"},
      {"model.hidden_dim", "width inside the feed-forward layers; 0 means the family's rule"},
      {"model.max_seq_len", "context in tokens, in training and sampling"},
      {"model.dropout", "dropout probability"},
      {"model.bias", "biases in linear layers (gpt2)"},
      {"model.tie_weights", "the head uses the embedding's matrix"},
      {"model.rope_base", "base of the rotary frequencies (llama)"},
      {"data.path", "training text: a file, or a folder that is read recursively"},
      {"data.tokenizer", "byte, char, bpe:N with N ids, or the path of a tokenizer.json"},
      {"data.train_fraction", "the front part that is trained on; the rest is for validation"},
      {"optim.optimizer", "adamw, lion or sgd"},
      {"optim.lr", "highest learning rate"},
      {"optim.min_lr", "learning rate at the end"},
      {"optim.schedule", "cosine, linear, wsd or constant, after the warm-up"},
      {"optim.warmup_steps", "steps of linear warm-up"},
      {"optim.decay_fraction", "last part of the steps in which wsd decays"},
      {"optim.weight_decay", "of matrices; vectors are not decayed"},
      {"optim.beta1", "decay of the first moment; momentum of sgd"},
      {"optim.beta2", "decay of the second moment"},
      {"optim.eps", "added to the root of the second moment"},
      {"optim.clip_norm", "largest norm of the whole gradient; 0 does not clip"},
      {"train.steps", "optimizer steps"},
      {"train.minutes", "instead of steps: timed steps decide how many fit; 0 is off"},
      {"train.batch_size", "sequences per batch"},
      {"train.accumulation", "batches per step"},
      {"train.dtype", "of activations: f32 or bf16"},
      {"train.seed", "of initialisation, shuffling and dropout"},
      {"train.threads", "CPU threads; 0 takes all"},
      {"train.eval_every", "steps between evaluations; 0 is never"},
      {"train.sample_every", "steps between samples; 0 is never"},
      {"train.checkpoint_every", "steps between checkpoints; 0 is at the end only"},
      {"train.spike_factor", "skip a loss this many deviations above its mean; 0 is off"},
      {"train.recompute", "compute layers again in backward: less memory, a third more work"},
      {"train.out", "run folder"},
      {"train.init_from", "run folder whose weights to begin with"},
      {"sample.prompt", "text that samples continue"},
      {"sample.tokens", "tokens per sample"},
      {"sample.temperature", "0 takes the likeliest token"},
      {"sample.top_k", "sample among so many; 0 is all"},
      {"sample.top_p", "sample among the likeliest that together have this probability"},
      {"sample.seed", "of sampling"},
  };
  return table;
}

void require_one_of(const char* key, const std::string& value,
                    const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) return;
  std::string list;
  for (const std::string& k : known) list += (list.empty() ? "" : ", ") + k;
  fail(key, ": unknown value \"", value, "\"; known are ", list);
}

constexpr int64_t kMost = 1000000000000000;  // of steps

void require_range(const char* key, double value, double low, double high) {
  if (value >= low && value <= high) return;
  fail(key, ": wants ", number_text(low), " to ", number_text(high), ", got ", number_text(value));
}
void require_range(const char* key, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, key, ": wants ", low, " to ", high, ", got ", value);
}

void check_model(const ModelConfig& m) {
  require_one_of("model.family", m.family, {"gpt2", "llama"});
  require_range("model.num_layers", m.num_layers, 1, 10000);
  require_range("model.embed_dim", m.embed_dim, 1, 1000000);
  require_range("model.num_heads", m.num_heads, 1, 1000000);
  require_range("model.num_kv_heads", m.num_kv_heads, 0, 1000000);
  require_range("model.hidden_dim", m.hidden_dim, 0, 10000000);
  require_range("model.max_seq_len", m.max_seq_len, 2, 10000000);
  require_range("model.dropout", m.dropout, 0.0, 0.99);
  require(std::isfinite(m.rope_base) && m.rope_base > 0,
          "model.rope_base: wants a finite number above 0, got ", m.rope_base);
  require(m.embed_dim % m.num_heads == 0, "model.num_heads: ", m.num_heads,
          " heads do not divide model.embed_dim ", m.embed_dim);
  const int64_t kv = m.num_kv_heads;
  require(kv == 0 || m.num_heads % kv == 0, "model.num_kv_heads: ", kv,
          " does not divide model.num_heads ", m.num_heads);
  require(m.family != "llama" || (m.embed_dim / m.num_heads) % 2 == 0,
          "model.embed_dim: llama wants an even size per head, got ", m.embed_dim, " / ",
          m.num_heads);
  require(m.family == "llama" || kv == 0 || kv == m.num_heads,
          "model.num_kv_heads: family gpt2 has as many as model.num_heads, got ", kv);
}

void check_optim(const OptimConfig& o) {
  require_one_of("optim.optimizer", o.optimizer, {"adamw", "lion", "sgd"});
  require_one_of("optim.schedule", o.schedule, {"cosine", "linear", "wsd", "constant"});
  require_range("optim.lr", o.lr, 0.0, 1e6);
  require_range("optim.min_lr", o.min_lr, 0.0, 1e6);
  require_range("optim.warmup_steps", o.warmup_steps, 0, kMost);
  require_range("optim.decay_fraction", o.decay_fraction, 0.0, 1.0);
  require_range("optim.weight_decay", o.weight_decay, 0.0, 1e6);
  require_range("optim.beta1", o.beta1, 0.0, 0.999999);
  require_range("optim.beta2", o.beta2, 0.0, 0.999999999);
  require_range("optim.eps", o.eps, 0.0, 1.0);
  require_range("optim.clip_norm", o.clip_norm, 0.0, 1e9);
}

void check_train(const TrainConfig& t) {
  require_range("train.steps", t.steps, 1, kMost);
  require_range("train.minutes", t.minutes, 0.0, 1e7);
  require_range("train.batch_size", t.batch_size, 1, 1000000);
  require_range("train.accumulation", t.accumulation, 1, 1000000);
  require(t.dtype == f32 || t.dtype == bf16, "train.dtype: wants f32 or bf16, got ", t.dtype);
  require_range("train.seed", t.seed, 0, INT64_MAX);
  require_range("train.threads", t.threads, 0, 4096);
  require_range("train.eval_every", t.eval_every, 0, kMost);
  require_range("train.sample_every", t.sample_every, 0, kMost);
  require_range("train.checkpoint_every", t.checkpoint_every, 0, kMost);
  require_range("train.spike_factor", t.spike_factor, 0.0, 1e9);
}

}  // namespace

std::vector<KeyInfo> list_keys(const RunConfig& config) {
  Lister lister;
  RunConfig copy = config;
  copy.fields(lister);
  for (KeyInfo& key : lister.keys)
    if (const auto found = helps().find(key.path); found != helps().end()) key.help = found->second;
  return std::move(lister.keys);
}

const std::vector<std::pair<std::string, std::string>>& aliases() {
  static const std::vector<std::pair<std::string, std::string>> table = {
      {"accumulation", "train.accumulation"},
      {"batch-size", "train.batch_size"},
      {"checkpoint-every", "train.checkpoint_every"},
      {"context", "model.max_seq_len"},
      {"data", "data.path"},
      {"dtype", "train.dtype"},
      {"eval-every", "train.eval_every"},
      {"init-from", "train.init_from"},
      {"lr", "optim.lr"},
      {"minutes", "train.minutes"},
      {"out", "train.out"},
      {"sample-every", "train.sample_every"},
      {"seed", "train.seed"},
      {"steps", "train.steps"},
      {"threads", "train.threads"},
      {"tokenizer", "data.tokenizer"},
  };
  return table;
}

void read_flags(const FlagValues& flags, RunConfig& config) {
  FlagReader reader(flags);
  config.fields(reader);
}

std::string to_toml(const RunConfig& config) {
  std::string out, section;
  for (const KeyInfo& key : list_keys(config)) {
    const size_t dot = key.path.find('.');
    if (const std::string name = key.path.substr(0, dot); name != section) {
      out += (section.empty() ? "[" : "\n[") + name + "]\n";
      section = name;
    }
    std::string line = key.path.substr(dot + 1) + " = " + key.value;
    if (line.size() < 28) line.resize(28, ' ');
    out += line + "  # " + key.help + "\n";
  }
  return out;
}

void check_texts(const RunConfig& c) {
  const std::pair<const char*, const std::string&> texts[] = {
      {"data.path", c.data.path},
      {"data.tokenizer", c.data.tokenizer},
      {"train.out", c.train.out},
      {"train.init_from", c.train.init_from},
      {"sample.prompt", c.sample.prompt}};
  for (const auto& [key, text] : texts) {
    const size_t at = find_invalid_utf8(text);
    require(at == std::string::npos, key, ": wants text in UTF-8, byte ", at, " of it is not");
  }
}

void check(const RunConfig& c) {
  check_model(c.model);
  require_range("data.train_fraction", c.data.train_fraction, 0.001, 0.999);
  check_optim(c.optim);
  check_train(c.train);
  require_range("sample.tokens", c.sample.tokens, 0, 1000000000);
  require_range("sample.temperature", c.sample.temperature, 0.0, 1e6);
  require_range("sample.top_k", c.sample.top_k, 0, 1000000000);
  require_range("sample.top_p", c.sample.top_p, 1e-9, 1.0);
}

}  // namespace olm::tools
