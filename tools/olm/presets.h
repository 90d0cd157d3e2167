#pragma once
// Named configurations.
#include <string>
#include <vector>

#include "tools/olm/config.h"

namespace olm::tools {

struct Preset {
  std::string name;
  std::string about;
  RunConfig config;
};
const std::vector<Preset>& presets();
/// Throws listing the known names.
const Preset& find_preset(const std::string& name);
/// A model by name: a description (a .json file), the model of a run folder, a model of a preset,
/// one of the library's models ("GPT2"), or a family, which keeps what keys it shares with `usual`.
/// Throws listing the known names.
ModelSection find_model(const std::string& name, const ModelSection& usual = {});
/// A table of all presets in Markdown: one column per preset, one row per field in which they
/// differ, and what they have in common below.
std::string presets_table();
/// A table of the library's models in Markdown, one row per preset.
std::string models_table();

}  // namespace olm::tools
