#include "tools/olm/assemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include <olm/engine/file.h>

#include "tools/olm/open.h"
#include "tools/olm/presets.h"
#include "tools/olm/ranks.h"

namespace olm::tools {

namespace {

/// Keys that a run cannot change once it has begun.
bool is_fixed(const std::string& path) {
  for (const char* key :
       {"data.tokenizer", "data.train_fraction", "train.batch_size", "train.seed",
        "train.init_from", "train.document_mask", "train.context", "optim.optimizer"})
    if (path == key) return true;
  return path.starts_with("model.");
}

/// One line about keys that neither run.toml nor a flag names, as where a line was deleted or an
/// earlier version wrote the file: a run that silently went on with other values would be another.
void say_what_is_left_out(const std::string& file, const TrainArgs& args, const RunConfig& config) {
  std::string names;
  for (const KeyInfo& key : keys_left_out(file, config)) {
    const bool given = std::any_of(args.flags.begin(), args.flags.end(),
                                   [&](const auto& flag) { return flag.first == key.path; });
    // --resume names the folder, and [dist] does not change what a run is.
    if (given || key.path == "train.out" || key.path.starts_with("dist.")) continue;
    names += (names.empty() ? "" : ", ") + key.path + " = " + key.value;
  }
  if (names.empty() || !is_first_rank()) return;
  fmt::print(stderr, "olm train: {} leaves out keys, which take their defaults: {}\n", file, names);
}

/// The description of a run's model lies in its folder.
void place_description(const std::string& folder, RunConfig& config) {
  if (config.model.is_described()) config.model.description = folder + "/model.json";
}

RunConfig assemble_resumed(const TrainArgs& args) {
  const std::string file = args.resume + "/run.toml";
  if (!file_exists(file)) throw FileError(args.resume, ": is no run folder, run.toml is missing");
  require(args.config.empty() && args.preset.empty() && args.model.empty(),
          "--resume: takes the configuration from ", file,
          "; --config, --preset and --model have no use");
  for (const auto& [key, text] : args.flags)
    require(key != "train.minutes" && key != "train.out", "--resume: a run that goes on keeps its ",
            key == "train.out" ? "folder; --out has" : "number of steps; --minutes has", " no use");
  RunConfig config;
  read_config(file, config);
  place_description(args.resume, config);
  say_what_is_left_out(file, args, config);
  const std::vector<KeyInfo> before = list_keys(config);
  read_flags(args.flags, config);
  const std::vector<KeyInfo> after = list_keys(config);
  const auto text = [](const KeyInfo& key) { return key.value.empty() ? "left out" : key.value; };
  for (size_t i = 0; i < before.size(); ++i)  // another family is seen before its keys are
    require(before[i].value == after[i].value || !is_fixed(before[i].path),
            "--resume: ", before[i].path, " is ", text(before[i]), " in ", file,
            " and cannot become ", text(after[i]));
  config.train.out = args.resume;
  return config;
}

/// What file and flags say of a key, as train.init_from, on which depends how the others are read.
std::string early_text(const TrainArgs& args, const std::string& section, const std::string& name) {
  std::string text;
  if (!args.config.empty()) {
    const Json file = read_toml(args.config);
    const Json* table = file.find(section);
    const Json* key = table && table->is_object() ? table->find(name) : nullptr;
    if (key && key->is_string()) text = key->as_string();
  }
  for (const auto& [key, given] : args.flags)
    if (key == section + "." + name) text = given;
  return text;
}

/// True for a key that does not change what a model or its ids are.
bool is_free(const std::string& path) {
  for (const char* key : {"model.dropout", "model.load_balancing_coefficient",
                          "model.z_loss_coefficient", "model.bias_update_rate"})
    if (path == key) return true;
  return !path.starts_with("model.") && path != "data.tokenizer";
}

/// The model of another program that a training begins with is what it is: a shorter max_seq_len
/// asks for shorter sequences, and anything else in [model] that contradicts is refused.
void keep_model(const std::string& path, const RunConfig& origin, RunConfig& config) {
  const int64_t most = origin.model.longest(), asked = config.model.longest();
  const bool decoder = !config.model.is_described() && !origin.model.is_described();
  if (decoder && config.model.config.family() == origin.model.config.family() && asked < most) {
    config.train.context = asked;
    config.model.config.as<nn::DecoderConfig>().max_seq_len = most;
  }
  const std::vector<KeyInfo> keys = list_keys(origin), now = list_keys(config);
  const auto text = [](const KeyInfo& key) { return key.value.empty() ? "left out" : key.value; };
  for (size_t i = 0; i < keys.size() && i < now.size(); ++i)  // another family is seen first
    require(keys[i].value == now[i].value || is_free(keys[i].path), "--init-from: ", keys[i].path,
            " is ", text(keys[i]), " in ", path, " and cannot become ", text(now[i]));
}

/// Before other keys are read, which belong to a family.
void keep_family(const std::string& path, const std::string& asked, const RunConfig& origin) {
  if (asked.empty() || origin.model.is_described()) return;
  const std::string family = origin.model.config.family();
  require(asked == family, "--init-from: model.family is ", family, " in ", path,
          " and cannot become ", asked);
}

/// The beginning of a run whose weights come from elsewhere.
void read_origin(const std::string& path, RunConfig& config) {
  if (is_foreign(path)) return take_pretrained(path, nn::inspect_pretrained(path), config);
  if (!file_exists(path + "/run.toml") || !file_exists(path + "/model.safetensors"))
    throw FileError(path, ": --init-from wants a run folder with run.toml and model.safetensors");
  RunConfig origin;
  read_config(path + "/run.toml", origin);
  place_description(path, origin);
  config.model = origin.model;
  config.data.tokenizer = path + "/tokenizer.json";
}

}  // namespace

RunConfig assemble(const TrainArgs& args) {
  RunConfig config;
  if (!args.resume.empty()) {
    config = assemble_resumed(args);
  } else {
    if (!args.preset.empty()) config = find_preset(args.preset).config;
    const std::string from = early_text(args, "train", "init_from");
    if (!from.empty()) read_origin(from, config);
    if (!from.empty()) keep_family(from, early_text(args, "model", "family"), config);
    const RunConfig origin = config;
    if (!args.config.empty()) read_config(args.config, config);
    if (!args.model.empty()) config.model = find_model(args.model, config.model);
    read_flags(args.flags, config);
    if (!from.empty() && is_foreign(from)) keep_model(from, origin, config);
  }
  check(config);
  check_texts(config);
  return config;
}

}  // namespace olm::tools
