#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/model_io.h>
#include <olm/nn/text.h>
#include <olm/nn/training.h>

#include "tools/olm/commands.h"
#include "tools/olm/machine.h"
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

/// What a safetensors file holds; in `full`, tensor by tensor.
void show_tensors(const std::string& path, bool full) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  size_t width = 4, shape_width = 18, bytes = 0;
  int64_t elements = 0;
  std::map<std::string, int> dtypes;
  for (const std::string& name : file.names()) {
    const SafetensorsEntry& e = file.entry(name);
    width = std::max(width, shown(name).size());
    shape_width = std::max(shape_width, e.shape_text().size());
    bytes += e.bytes;
    elements += std::accumulate(e.shape.begin(), e.shape.end(), int64_t(1), std::multiplies());
    ++dtypes[shown(e.dtype)];
  }
  std::string kinds;
  for (const auto& [dtype, count] : dtypes) kinds += (kinds.empty() ? "" : ", ") + dtype;
  const std::string total =
      fmt::format("{} {} of {}, {} elements, {}", file.names().size(),
                  file.names().size() == 1 ? "tensor" : "tensors",
                  kinds.empty() ? "no dtype" : kinds, grouped(elements), bytes_text(double(bytes)));
  if (!full) {
    fmt::print("weights: {}\n", total);
    return;
  }
  fmt::print("{}\n", path);
  for (const std::string& name : file.names()) {
    const SafetensorsEntry& e = file.entry(name);
    fmt::print("  {:<{}}  {:<7} {:<{}} {:>10}\n", shown(name), width, shown(e.dtype),
               e.shape_text(), shape_width, bytes_text(double(e.bytes)));
  }
  for (const auto& [key, value] : file.metadata())
    fmt::print("  metadata {}: {}\n", shown(key), shown(value));
  fmt::print("  {}\n", total);
}

void show_model(const std::string& path) {
  const nn::Ref<nn::Module> model = nn::load_architecture(path);
  fmt::print("{}", nn::summary(*model));
}

void show_tokenizer(const std::string& path) {
  const auto tokenizer = nn::load_tokenizer(path);
  fmt::print("tokenizer: {}, {} ids, hash {}\n", tokenizer->name(), tokenizer->vocab_size(),
             tokenizer->hash());
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

void show_folder(const std::string& folder) {
  bool any = false;
  auto with = [&](const char* name, auto show) {
    const std::string path = folder + "/" + name;
    if (!file_exists(path)) return;
    show(path);
    any = true;
  };
  with("model.json", show_model);
  with("tokenizer.json", show_tokenizer);
  // The tree above says what the weights are; without one the file has to.
  with("model.safetensors",
       [&](const std::string& path) { show_tensors(path, !file_exists(folder + "/model.json")); });
  if (!nn::Checkpoints(folder).steps().empty()) {
    show_checkpoints(folder);
    any = true;
  }
  if (!any)
    throw FileError(folder, ": holds no model.json, tokenizer.json, model.safetensors or ",
                    "checkpoints");
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
    show_folder(path);
  } else if (path.ends_with(".json")) {
    const Json json = read_json(path);
    const bool model = json.is_object() && json.contains("model") && json.contains("version") &&
                       !json.contains("added_tokens");
    model ? show_model(path) : show_tokenizer(path);
  } else {
    show_tensors(path, true);
  }
  return 0;
}

}  // namespace olm::tools
