#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

#include "tools/olm/commands.h"
#include "tools/olm/machine.h"
#include "tools/olm/open.h"
#include "tools/olm/presets.h"

namespace olm::tools {

namespace {

/// Text from a file as a terminal can show it: control bytes, and the two bytes of the control
/// characters U+0080 to U+009F, become \\xHH.
std::string shown(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t at) { return at < text.size() ? int(uint8_t(text[at])) : 0; };
    if (byte(i) < 0x20 || byte(i) == 0x7f) {
      out += fmt::format("\\x{:02x}", byte(i));
    } else if (byte(i) == 0xc2 && byte(i + 1) >= 0x80 && byte(i + 1) < 0xa0) {
      out += fmt::format("\\x{:02x}\\x{:02x}", byte(i), byte(i + 1));
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// A tensor in a file.
struct Row {
  std::string name, type, shape;
  int64_t elements = 0, bytes = 0;
};

/// "19 tensors: 12 of F32, 7 of Q8_0, 1,234 elements, 4.9 kB".
std::string total_of(const std::vector<Row>& rows) {
  std::map<std::string, int64_t> types;
  int64_t elements = 0, bytes = 0;
  for (const Row& row : rows) {
    ++types[shown(row.type)];
    elements += row.elements;
    bytes += row.bytes;
  }
  std::string kinds;
  for (const auto& [type, count] : types)
    kinds +=
        (kinds.empty() ? "" : ", ") + (types.size() > 1 ? std::to_string(count) + " " : "") + type;
  return fmt::format("{} {} of {}, {} elements, {}", rows.size(),
                     rows.size() == 1 ? "tensor" : "tensors", kinds.empty() ? "no dtype" : kinds,
                     grouped(elements), bytes_text(double(bytes)));
}

void show_rows(const std::vector<Row>& rows) {
  size_t width = 4, shape_width = 18;
  for (const Row& row : rows) {
    width = std::max(width, shown(row.name).size());
    shape_width = std::max(shape_width, row.shape.size());
  }
  for (const Row& row : rows)
    fmt::print("  {:<{}}  {:<7} {:<{}} {:>10}\n", shown(row.name), width, shown(row.type),
               row.shape, shape_width, bytes_text(double(row.bytes)));
}

/// What a safetensors file holds; in `full`, tensor by tensor.
void show_tensors(const std::string& path, bool full) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<Row> rows;
  for (const std::string& name : file.names()) {
    const SafetensorsEntry& e = file.entry(name);
    rows.push_back({name, e.dtype, e.shape_text(),
                    std::accumulate(e.shape.begin(), e.shape.end(), int64_t(1), std::multiplies()),
                    int64_t(e.bytes)});
  }
  if (!full) {
    fmt::print("weights: {}\n", total_of(rows));
    return;
  }
  fmt::print("{}\n", path);
  show_rows(rows);
  for (const auto& [key, value] : file.metadata())
    fmt::print("  metadata {}: {}\n", shown(key), shown(value));
  fmt::print("  {}\n", total_of(rows));
}

void show_model(const std::string& path) {
  const nn::Ref<nn::Module> model = nn::load_architecture(path);
  fmt::print("{}", nn::summary(*model));
}

/// "bos 1 <s>, adds bos", … of ids that have a role.
std::string roles_of(const nn::Tokenizer& tokenizer) {
  const nn::SpecialTokens special = tokenizer.special();
  std::string text;
  const auto add = [&](const char* role, const std::optional<int32_t>& id) {
    if (id)
      text += fmt::format(", {} {} {}", role, *id, shown(std::string(tokenizer.token_bytes(*id))));
  };
  add("bos", special.bos);
  add("eos", special.eos);
  add("pad", special.pad);
  add("unk", special.unk);
  if (special.adds_bos) text += ", adds bos";
  if (special.adds_eos) text += ", adds eos";
  return text;
}

void show_tokenizer(const nn::Tokenizer& tokenizer) {
  fmt::print("tokenizer: {}, {} ids{}, hash {}\n", tokenizer.name(), tokenizer.vocab_size(),
             roles_of(tokenizer), tokenizer.hash());
}

/// What sampling keeps to, where the model's files say.
std::string generation_text(const nn::GenerationSettings& g) {
  std::string text;
  const auto add = [&](const char* name, const auto& value) {
    if (value) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, *value);
  };
  for (const int32_t id : g.stop) add("stop", std::optional(id));
  add("temperature", g.temperature);
  add("top_k", g.top_k);
  add("top_p", g.top_p);
  add("min_p", g.min_p);
  add("repetition_penalty", g.repetition_penalty);
  if (g.do_sample) add("do_sample", std::optional(*g.do_sample ? "true" : "false"));
  return text;
}

std::string sizes_text(const nn::DecoderConfig& c) {
  const int64_t kv = c.num_kv_heads.value_or(c.num_heads);
  std::string text =
      fmt::format("{} layers of width {}, {} heads", c.num_layers, c.embed_dim, c.num_heads);
  if (kv != c.num_heads) text += fmt::format(", {} of keys and values", kv);
  if (c.head_dim) text += fmt::format(", head of {}", *c.head_dim);
  if (c.intermediate_size) text += fmt::format(", FFN of {}", *c.intermediate_size);
  if (c.num_experts) text += fmt::format(", {} experts", *c.num_experts);
  return text + fmt::format(", {} rows of embedding", c.vocab_size);
}

/// A model: what its files say, then its layers, or, if asked for, its tensors.
void show_pretrained(const std::string& path, bool tensors) {
  const nn::PretrainedFacts facts = nn::inspect_pretrained(path);
  std::vector<Row> rows;
  for (const auto& t : facts.tensors)
    rows.push_back({t.name, t.type, detail::concat(t.shape), t.shape.numel(), t.bytes});
  fmt::print("model: {}\n", kind_text(facts));
  if (facts.config) {
    fmt::print("sizes: {}\ncontext: {} tokens\n", sizes_text(*facts.config),
               facts.config->max_seq_len);
  }
  fmt::print("weights: {}\n", total_of(rows));
  if (facts.tokenizer) show_tokenizer(*facts.tokenizer);
  if (const std::string text = generation_text(facts.generation); !text.empty())
    fmt::print("sampling: {}\n", text);
  for (const std::string& name : facts.not_understood)
    fmt::print("not understood: {}\n", shown(name));
  if (tensors)
    show_rows(rows);
  else if (facts.form == nn::ModelForm::run)
    show_model(path + "/model.json");
  else if (facts.config)
    fmt::print("{}", nn::summary(*nn::DecoderModel(*facts.config)));
}

void show_checkpoints(const std::string& folder) {
  const nn::Checkpoints checkpoints(folder);
  for (const int64_t step : checkpoints.steps()) {
    const nn::CheckpointState state = checkpoints.state(step);
    fmt::print("checkpoint: step {} of {}", state.step, state.total_steps);
    if (state.val_loss) fmt::print(", validation loss {:.4f}", *state.val_loss);
    fmt::print(", {}\n", checkpoints.path(step));
  }
}

/// A folder that is no whole model: a run before its first checkpoint, a tokenizer, weights alone.
bool show_parts(const std::string& folder, bool tensors) {
  const auto has = [&](const char* name) { return file_exists(folder + "/" + name); };
  if (has("model.json")) show_model(folder + "/model.json");
  if (has("tokenizer.json")) show_tokenizer(*open_tokenizer(folder));
  // The tree above says what the weights are; without one the file has to.
  if (has("model.safetensors"))
    show_tensors(folder + "/model.safetensors", tensors || !has("model.json"));
  return has("model.json") || has("tokenizer.json") || has("model.safetensors");
}

void show_folder(const std::string& folder, bool tensors) {
  const auto has = [&](const char* name) { return file_exists(folder + "/" + name); };
  const bool run = has("model.json") && has("model.safetensors");
  const bool vendors = has("config.json") && !has("model.json");
  bool any = run || vendors;
  if (any)
    show_pretrained(folder, tensors);
  else
    any = show_parts(folder, tensors);
  if (!nn::Checkpoints(folder).steps().empty()) {
    show_checkpoints(folder);
    any = true;
  }
  if (!any)
    throw FileError(folder, ": holds no model.json, config.json, tokenizer.json, ",
                    "model.safetensors or checkpoints");
}

bool begins_as_gguf(const std::string& path) {
  return file_exists(path) && MappedFile::open(path)->text().starts_with("GGUF");
}

}  // namespace

int inspect(const InspectArgs& args) {
  if (args.models) {
    fmt::print("{}", models_table());
    return 0;
  }
  if (!args.model.empty()) return inspect_model(args);
  const std::string& path = args.path;
  if (folder_exists(path)) {
    show_folder(path, args.tensors);
  } else if (path.ends_with(".json")) {
    const Json json = read_json(path);
    const bool model = json.is_object() && json.contains("model") && json.contains("version") &&
                       !json.contains("added_tokens");
    if (model)
      show_model(path);
    else
      show_tokenizer(*open_tokenizer(path));
  } else if (path.ends_with(".gguf") || begins_as_gguf(path)) {
    show_pretrained(path, args.tensors);
  } else {
    show_tensors(path, true);
  }
  return 0;
}

}  // namespace olm::tools
