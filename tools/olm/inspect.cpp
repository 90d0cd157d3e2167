#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/model_io.h>
#include <olm/nn/text.h>
#include <olm/nn/training.h>

#include "tools/olm/commands.h"
#include "tools/olm/machine.h"

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

std::string shape_text(const Shape& shape) { return detail::concat(shape); }

void show_tensors(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  size_t width = 4, bytes = 0;
  int64_t elements = 0;
  for (const std::string& name : file.names()) width = std::max(width, shown(name).size());
  fmt::print("{}\n", path);
  for (const std::string& name : file.names()) {
    const SafetensorsEntry& e = file.entry(name);
    fmt::print("  {:<{}}  {:<5} {:<18} {:>10}\n", shown(name), width, shown(e.dtype),
               shape_text(e.shape), bytes_text(double(e.bytes)));
    bytes += e.bytes;
    elements += e.shape.numel();
  }
  for (const auto& [key, value] : file.metadata())
    fmt::print("  metadata {}: {}\n", shown(key), shown(value));
  fmt::print("  {} tensors, {} elements, {}\n", file.names().size(), grouped(elements),
             bytes_text(double(bytes)));
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
  with("model.safetensors", show_tensors);
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
  const std::string& path = args.path;
  if (folder_exists(path)) {
    show_folder(path);
  } else if (path.ends_with(".json")) {
    const Json json = read_json(path);
    const bool model = json.is_object() && json.contains("model") && json.contains("version") &&
                       !json.contains("added_tokens");
    model ? show_model(path) : show_tokenizer(path);
  } else {
    show_tensors(path);
  }
  return 0;
}

}  // namespace olm::tools
