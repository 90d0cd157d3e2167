#include "tools/olm/assemble.h"

#include <olm/engine/file.h>

#include "tools/olm/presets.h"

namespace olm::tools {

namespace {

/// Keys that a run cannot change once it has begun.
bool is_fixed(const std::string& path) {
  for (const char* key : {"data.tokenizer", "data.train_fraction", "train.batch_size", "train.seed",
                          "train.init_from", "optim.optimizer"})
    if (path == key) return true;
  return path.starts_with("model.");
}

RunConfig assemble_resumed(const TrainArgs& args) {
  const std::string file = args.resume + "/run.toml";
  if (!file_exists(file)) throw FileError(args.resume, ": is no run folder, run.toml is missing");
  require(args.config.empty() && args.preset.empty(), "--resume: takes the configuration from ",
          file, "; --config and --preset have no use");
  for (const auto& [key, text] : args.flags)
    require(key != "train.minutes" && key != "train.out", "--resume: a run that goes on keeps its ",
            key == "train.out" ? "folder; --out has" : "number of steps; --minutes has", " no use");
  RunConfig config;
  read_toml(file, config);
  const std::vector<KeyInfo> before = list_keys(config);
  read_flags(args.flags, config);
  const std::vector<KeyInfo> after = list_keys(config);
  for (size_t i = 0; i < before.size(); ++i)
    require(before[i].value == after[i].value || !is_fixed(before[i].path),
            "--resume: ", before[i].path, " is ", before[i].value, " in ", file,
            " and cannot become ", after[i].value);
  config.train.out = args.resume;
  return config;
}

/// What the configuration has to say about a key that decides where it comes from.
std::string early_init_from(const TrainArgs& args) {
  RunConfig config;
  if (!args.config.empty()) read_toml(args.config, config);
  read_flags(args.flags, config);
  return config.train.init_from;
}

void read_origin(const std::string& folder, RunConfig& config) {
  if (!file_exists(folder + "/run.toml") || !file_exists(folder + "/model.safetensors"))
    throw FileError(folder, ": --init-from wants a run folder with run.toml and model.safetensors");
  RunConfig origin;
  read_toml(folder + "/run.toml", origin);
  config.model = origin.model;
  config.data.tokenizer = folder + "/tokenizer.json";
}

}  // namespace

RunConfig assemble(const TrainArgs& args) {
  RunConfig config;
  if (!args.resume.empty()) {
    config = assemble_resumed(args);
  } else {
    if (!args.preset.empty()) config = find_preset(args.preset).config;
    if (const std::string origin = early_init_from(args); !origin.empty())
      read_origin(origin, config);
    if (!args.config.empty()) read_toml(args.config, config);
    read_flags(args.flags, config);
  }
  check(config);
  check_texts(config);
  return config;
}

}  // namespace olm::tools
