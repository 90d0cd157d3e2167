// Writes models as GGUF files.
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/nn/hub/gguf_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::hub {

namespace {

/// A type that tensors are written in, and llama.cpp's number for a file of it.
struct FileType {
  const char* name;
  GgufType type;
  uint32_t number;
};
constexpr FileType kFileTypes[] = {{"f32", GgufType::f32, 0},
                                   {"f16", GgufType::f16, 1},
                                   {"q8_0", GgufType::q8_0, 7},
                                   {"bf16", GgufType::bf16, 32}};

const FileType& file_type(const std::string& name) {
  for (const FileType& type : kFileTypes)
    if (name == type.name) return type;
  fail("GGUF: the type \"", name, "\" is not written; f32, f16, bf16 and q8_0 are");
}

const FileType& file_type(DType dtype) {
  return file_type(dtype == f16 ? "f16" : dtype == bf16 ? "bf16" : "f32");
}

/// Tensors that llama.cpp wants in f32 whatever the file's type is.
bool stays_f32(const PlannedTensor& tensor) {
  const std::string& name = tensor.name;
  return tensor.shape.rank() < 2 || !name.ends_with(".weight") || name.ends_with("_norm.weight") ||
         name.ends_with(".ffn_gate_inp.weight") || name == "position_embd.weight";
}

const FileType& type_of(const PlannedTensor& tensor, const std::optional<std::string>& wanted) {
  if (stays_f32(tensor)) return file_type("f32");
  return wanted ? file_type(*wanted) : file_type(tensor.dtype);
}

/// The type of most numbers.
uint32_t main_type(const std::vector<PlannedTensor>& tensors,
                   const std::optional<std::string>& wanted) {
  std::map<uint32_t, int64_t> counts;
  for (const PlannedTensor& tensor : tensors)
    if (!stays_f32(tensor)) counts[type_of(tensor, wanted).number] += tensor.shape.numel();
  return largest_of(counts);
}

/// The width of feed-forward layers: the last axis of what leads out of them.
int64_t width_of(const std::vector<PlannedTensor>& tensors) {
  for (const PlannedTensor& tensor : tensors)
    if (tensor.name.ends_with(".ffn_down.weight") || tensor.name.ends_with(".ffn_down_exps.weight"))
      return tensor.shape[tensor.shape.rank() - 1];
  fail("GGUF: the model has no feed-forward layers");
}

Json kept_values(const StoredModel& model) {
  const auto kept = model.vendor.find("gguf.json");
  return kept == model.vendor.end() ? Json::object() : Json::parse(kept->second, "gguf.json");
}

/// The model's own name, or that of its file or folder.
std::string name_of_model(const StoredModel& model, const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  const std::filesystem::path path(model.path);
  const std::string name =
      path.filename().empty() ? path.parent_path().filename() : path.filename();
  const std::string end = ".gguf";
  if (name.ends_with(end)) return name.substr(0, name.size() - end.size());
  return name.empty() ? "model" : name;
}

/// Whether a key is one of another architecture.
bool is_of_another(const std::string& key, const std::string& architecture) {
  for (const GgufArchitecture& a : architectures())
    if (a.name != architecture && key.starts_with(std::string(a.name) + ".")) return true;
  return false;
}

/// general.*, and what was kept of a file that the model came from.
void write_general(const StoredModel& model, const Family& family, const SaveOptions& options,
                   GgufWriter& to) {
  to.set("general.architecture", family.gguf);
  to.set("general.type", "model");
  to.set("general.name", name_of_model(model, options.name));
  const Json kept = kept_values(model);
  Json same = Json::object();
  for (const auto& [key, value] : kept.members()) {
    const bool renamed = key == "general.name" && !options.name.empty();
    if (!renamed && !is_of_another(key, family.gguf)) same.append(key, value);
  }
  values_from_json(same, to);
}

/// As text; "" where there is none. Of several that called default.
std::string chat_template_of(const StoredModel& model) {
  const auto file = model.vendor.find("chat_template.jinja");
  if (file != model.vendor.end()) return file->second;
  const auto config = model.vendor.find("tokenizer_config.json");
  if (config == model.vendor.end()) return "";
  const Json json = Json::parse(config->second, "tokenizer_config.json");
  const Json* held = json.is_object() ? json.find("chat_template") : nullptr;
  if (held && held->is_string()) return held->as_string();
  if (!held || !held->is_array()) return "";
  for (const Json& item : held->items())
    if (item.at("name").as_string() == "default") return item.at("template").as_string();
  return "";
}

using Sentences = std::vector<std::string>;

Sentences write_tokenizer(const StoredModel& model, GgufWriter& to) {
  if (!model.tokenizer) {
    to.set("tokenizer.ggml.model", "none");
    return {"the model has no tokenizer, so that llama.cpp takes ids alone"};
  }
  Sentences result = formats::write_vocabulary(*model.tokenizer, model.config->vocab_size,
                                               chat_template_of(model), to);
  // llama.cpp ends texts at the ids of eos, eot and eom.
  std::vector<const char*> others = {"tokenizer.ggml.eom_token_id", "tokenizer.ggml.eot_token_id"};
  for (const int32_t id : model.generation.stop) {
    // An id beyond the rows is never drawn, and llama.cpp refuses it.
    if (id == model.tokenizer->special().eos || id >= model.config->vocab_size) continue;
    if (others.empty()) {
      result.push_back(detail::concat("llama.cpp does not end a text at token ", id));
      continue;
    }
    to.set(others.back(), uint32_t(id));
    others.pop_back();
  }
  return result;
}

/// What llama.cpp computes in another way.
Sentences differences(const DecoderConfig& c, const GgufArchitecture& a) {
  Sentences result;
  if (a.gelu && !*c.gelu_tanh)
    result.push_back(
        "llama.cpp computes GELU by tanh, this model's is exact: hidden units differ by up to "
        "4.1e-4");
  if (!a.windows && c.sliding_window && *c.sliding_window < c.max_seq_len)
    result.push_back(detail::concat("llama.cpp's ", a.name,
                                    " has no sliding window: a token attends to all before it, "
                                    "not to the last ",
                                    *c.sliding_window));
  const RopeScalingOptions& o = c.rope_scaling;
  const std::string type = o.scaling_type.value_or("none");
  if (type == "yarn" && (o.yarn_beta.value_or(32) != 32 || o.yarn_alpha.value_or(1) != 1))
    result.push_back("llama.cpp takes 32 and 1 for yarn's beta_fast and beta_slow");
  if (type == "longrope" && o.short_factor != o.long_factor)
    result.push_back(detail::concat(
        "llama.cpp takes the long factors of RoPE where its context is above ",
        o.original_max_seq_len.value_or(c.max_seq_len), " tokens, however long the text is"));
  return result;
}

/// Hands out the planned tensors one by one, and gives back the pages of those before.
class Sender {
 public:
  Sender(std::shared_ptr<const TensorSource> source, std::function<bool()> should_stop)
      : source_(std::move(source)), should_stop_(std::move(should_stop)) {}
  Tensor operator()(const PlannedTensor& tensor) {
    require(!should_stop_ || !should_stop_(), "writing a GGUF file was stopped");
    for (const std::string& name : before_) source_->release(name);
    before_ = tensor.sources;
    return tensor.make();
  }

 private:
  std::shared_ptr<const TensorSource> source_;
  std::function<bool()> should_stop_;
  std::vector<std::string> before_;
};

/// A head apart, for architectures that want one of models whose head is tied.
void untie(std::vector<PlannedTensor>& tensors) {
  PlannedTensor head = tensors.front();
  require(head.name == "token_embd.weight", "GGUF: the first tensor is ", head.name,
          "; the embedding was wanted");
  head.name = "output.weight";
  tensors.push_back(std::move(head));
}

void add_tensors(const std::vector<PlannedTensor>& tensors, const std::vector<RopeFactors>& factors,
                 const StoredModel& model, const SaveOptions& options, GgufWriter& to) {
  for (const RopeFactors& f : factors)
    to.add(f.name, GgufType::f32, {int64_t(f.values.size())},
           [f] { return from_host(f.values, {int64_t(f.values.size())}); });
  const auto sender = std::make_shared<Sender>(model.tensors, options.should_stop);
  for (const PlannedTensor& tensor : tensors)
    to.add(tensor.name, type_of(tensor, options.type).type, tensor.shape,
           [sender, tensor] { return (*sender)(tensor); });
}

}  // namespace

std::vector<std::string> write_gguf(const StoredModel& model, const std::string& path,
                                    const SaveOptions& options) {
  if (path_exists(path)) throw FileError(path, ": exists already");
  require(model.config.has_value(), "GGUF: the model is no decoder");
  const DecoderConfig& config = *model.config;
  const Family& family =
      family_for(config, options.family.empty() ? model.vendor_family : options.family);
  require(*family.gguf != 0, "GGUF: llama.cpp has no architecture for the family ",
          family.model_type);
  const GgufArchitecture& architecture = architecture_of(family.gguf, path);
  std::vector<PlannedTensor> tensors = plan(model, family.gguf_names);
  if (architecture.head == GgufArchitecture::separate && config.tie_weights) untie(tensors);
  GgufWriter to;
  write_general(model, family, options, to);
  const std::vector<RopeFactors> factors = config_to_gguf(config, family, width_of(tensors), to);
  to.set("general.file_type", main_type(tensors, options.type));
  to.set("general.quantization_version", uint32_t(2));
  Sentences result = write_tokenizer(model, to);
  const Sentences more = differences(config, architecture);
  result.insert(result.end(), more.begin(), more.end());
  add_tensors(tensors, factors, model, options, to);
  const FoldersAbove above(path);
  to.write(path);
  return result;
}

}  // namespace olm::nn::hub

namespace olm::nn {

std::vector<std::string> save_gguf(const Pretrained& model, const std::string& path,
                                   const SaveOptions& options) {
  return hub::write_gguf(hub::stored(model), path, options);
}

std::vector<std::string> convert_to_gguf(const std::string& from, const std::string& to,
                                         const SaveOptions& options) {
  return hub::write_gguf(hub::open_model(from), to, options);
}

}  // namespace olm::nn
