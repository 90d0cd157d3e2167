// Metadata of GGUF files to configurations.
#include <algorithm>
#include <cmath>
#include <set>

#include <olm/nn/hub/gguf_internal.h>

namespace olm::nn::hub {

namespace {

using C = DecoderConfig;

/// Reads the values of one file under its architecture's keys.
class Reader {
 public:
  explicit Reader(const GgufFile& file)
      : file_(file),
        name_(file.at("general.architecture").as_string()),
        architecture_(architecture_of(name_, file.path())) {}
  ReadConfig read();

 private:
  std::string key(const char* end) const { return name_ + "." + end; }
  const GgufValue* find(const char* end) const { return file_.find(key(end)); }
  double number(const char* end) const;
  double number_or(const char* end, double absent) const {
    return find(end) ? number(end) : absent;
  }
  double size_or(const char* end, int64_t absent) const;
  bool has(const char* tensor) const { return file_.contains(tensor); }
  std::string family() const;
  void read_row(const GgufRow& row);
  void read_heads();
  void read_windows();
  std::vector<bool> windows_of(const GgufValue& pattern) const;
  void read_tensors();
  void read_experts();
  std::vector<std::string> unknown() const;

  const GgufFile& file_;
  const std::string name_;
  const GgufArchitecture& architecture_;
  C config_;
};

/// A number, or what an array of equal ones, one for each layer, holds.
double Reader::number(const char* end) const {
  const GgufValue& value = file_.at(key(end));
  if (value.kind() != GgufKind::array) return value.as_double();
  const std::vector<double> all = value.as_doubles();
  const bool equal =
      !all.empty() && std::all_of(all.begin(), all.end(), [&](double x) { return x == all[0]; });
  if (equal) return all[0];
  throw FileError(file_.path(), ": ", key(end), " is ", value.describe(),
                  "; one number for all layers was wanted");
}

/// A number of dimensions.
double Reader::size_or(const char* end, int64_t absent) const {
  const double x = number_or(end, double(absent));
  if (x >= 1 && x <= 0x1p31 && x == std::floor(x)) return x;
  throw FileError(file_.path(), ": ", key(end), " is ", x, "; an integer above 0 was wanted");
}

void Reader::read_row(const GgufRow& row) {
  const std::string name = key(row.key);
  const GgufValue* value = file_.find(name);
  if (!value && !row.absent && !row.may_miss)
    throw FileError(file_.path(), ": no ", name, ", which a model of the architecture ", name_,
                    " has");
  if (!value && !row.absent) return;
  const double x = value ? number(row.key) : *row.absent;
  if (row.may_miss && x == 0) return;
  std::visit(
      [&]<class T>(T C::*member) {
        if constexpr (std::is_same_v<T, std::optional<double>>) {
          config_.*member = decimal_of(x);
        } else {
          if (x != double(int64_t(std::clamp(x, -1e15, 1e15))))
            throw FileError(file_.path(), ": ", name, " is ", x, "; an integer was wanted");
          config_.*member = int64_t(x);
        }
      },
      row.member);
}

/// The row of families(): several share the architecture "llama".
std::string Reader::family() const {
  if (name_ == "llama" && number_or("expert_count", 0) > 0) return "mixtral";
  if (name_ == "llama" && number_or("attention.sliding_window", 0) > 0) return "mistral";
  for (const Family& f : families())
    if (f.gguf == name_) return f.model_type;
  throw FileError(file_.path(), ": general.architecture ", name_, " belongs to no family");
}

void Reader::read_heads() {
  if (name_ == "gpt2") return;
  const int64_t usual = config_.embed_dim / std::max<int64_t>(config_.num_heads, 1);
  const double key_length = size_or("attention.key_length", usual);
  const double value_length = size_or("attention.value_length", usual);
  if (key_length != value_length)
    throw FileError(file_.path(), ": heads have keys of ", key_length, " and values of ",
                    value_length, " numbers; equal ones were wanted");
  if (!config_.head_dim && key_length != double(usual)) config_.head_dim = int64_t(key_length);
  const double rotated = size_or("rope.dimension_count", int64_t(key_length));
  if (rotated != key_length && !(architecture_.partial_rotation && rotated < key_length))
    throw FileError(file_.path(), ": ", key("rope.dimension_count"), " is ", rotated,
                    "; the size of a head, ", key_length, ", was wanted");
  if (rotated != key_length) config_.partial_rotary_factor = rotated / key_length;
  if (!architecture_.layers_of_largest) return;
  const bool largest = config_.num_layers == architecture_.layers_of_largest;
  config_.query_pre_attn_scalar = largest ? double(usual) : key_length;
}

/// Which layers have windows, where that differs from what the architecture has.
void Reader::read_windows() {
  if (!architecture_.pattern) return;
  const GgufValue* pattern = find("attention.sliding_window_pattern");
  const std::vector<bool> windows = pattern ? windows_of(*pattern) : std::vector<bool>();
  const bool none = pattern && std::find(windows.begin(), windows.end(), true) == windows.end();
  if (!config_.sliding_window || none) {
    config_.sliding_window = config_.max_seq_len;  // the family always has one
    return;
  }
  bool usual = true;
  for (size_t l = 0; l < windows.size(); ++l) {
    const int64_t n = architecture_.pattern, layer = int64_t(l);
    if (windows[l]) config_.window_layers.push_back(layer);
    usual = usual && windows[l] == (layer % n != n - 1);
  }
  if (usual) config_.window_layers.clear();
}

std::vector<bool> Reader::windows_of(const GgufValue& pattern) const {
  const bool listed = pattern.kind() == GgufKind::array;
  std::vector<bool> windows = listed ? pattern.as_bools() : std::vector<bool>();
  if (listed && int64_t(windows.size()) != config_.num_layers)
    throw FileError(file_.path(), ": ", key("attention.sliding_window_pattern"), " has ",
                    windows.size(), " items; one for each of ", config_.num_layers,
                    " layers was wanted");
  const int64_t n = listed ? 0 : pattern.as_int();
  for (int64_t l = 0; !listed && l < config_.num_layers; ++l)
    windows.push_back(n <= 0 || l % n != n - 1);
  return windows;
}

/// What no key says, but the tensors' names.
void Reader::read_tensors() {
  if (!has("token_embd.weight"))
    throw FileError(file_.path(), ": no tensor token_embd.weight, which every model has");
  const Shape& table = file_.entry("token_embd.weight").shape;
  config_.vocab_size = table.rank() == 2 ? table[0] : 0;
  config_.tie_weights = !has("output.weight");
  if (name_ == "gpt2") return;
  const bool qkv = has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
  const bool usual = decoders().get(config_.family).defaults.qkv_bias.value_or(false);
  if (has("blk.0.attn_output.bias"))
    config_.attention_bias = true;
  else if (qkv != usual)
    config_.qkv_bias = qkv;
  if (has("blk.0.ffn_up.bias")) config_.mlp_bias = true;
}

void Reader::read_experts() {
  const bool here = number_or("expert_count", 0) > 0;
  if (name_ == "qwen3moe" && !here)
    throw FileError(file_.path(), ": ", key("expert_count"), " is missing or 0");
  if (!here) {
    config_.num_experts = config_.top_k = {};
    return;
  }
  if (name_ == "llama") config_.moe_intermediate_size = config_.intermediate_size;
}

/// Keys that none of the tables has.
std::vector<std::string> Reader::unknown() const {
  std::set<std::string> known;
  for (const GgufRow& row : architecture_.rows) known.insert(key(row.key));
  for (const std::string& end : rope_scaling_keys()) known.insert(name_ + "." + end);
  std::vector<const char*> others = {"vocab_size"};
  if (name_ != "gpt2")
    others.insert(others.end(),
                  {"attention.key_length", "attention.value_length", "rope.dimension_count"});
  if (architecture_.pattern) others.push_back("attention.sliding_window_pattern");
  for (const char* end : others) known.insert(key(end));
  std::vector<std::string> result;
  for (const std::string& k : file_.keys()) {
    if (known.count(k) || k.starts_with("general.") || k.starts_with("tokenizer.")) continue;
    if (k != kExactGelu) result.push_back(k);
  }
  return result;
}

ReadConfig Reader::read() {
  ReadConfig result{.family = family()};
  config_.family = family_of(result.family).ours;
  for (const GgufRow& row : architecture_.rows) read_row(row);
  result.not_understood = unknown();
  refuse_other_computation(file_, name_, result.not_understood);
  if (config_.num_layers < 1 || config_.num_heads < 1 || config_.embed_dim < 1)
    throw FileError(file_.path(), ": layers, heads and width are ", config_.num_layers, ", ",
                    config_.num_heads, " and ", config_.embed_dim, "; at least 1 was wanted");
  read_heads();
  read_windows();
  read_tensors();
  read_experts();
  if (name_ != "gpt2") {
    config_.rope_pairing = name_ == "llama" ? "interleaved" : "halves";
    config_.rope_scaling = rope_scaling_from_gguf(file_, name_, config_);
  }
  const GgufValue* exact = file_.find(kExactGelu);
  if (architecture_.gelu) config_.gelu_tanh = !(exact && exact->as_bool());
  if (name_.starts_with("gemma")) config_.norm_plus_one = true;
  result.config = config_.completed();
  return result;
}

}  // namespace

ReadConfig config_from_gguf(const GgufFile& file) try {
  return Reader(file).read();
} catch (const FileError&) {
  throw;
} catch (const Error& error) {
  throw FileError(file.path(), ": ", error.what());
}

}  // namespace olm::nn::hub
