#pragma once
// Models as folders: model.json (architecture) and model.safetensors (weights).
#include <string>

#include <olm/nn/module.h>

namespace olm::nn {

/// {"type", "options", "children"} of a model; throws where a part cannot describe itself.
OLM_API Json describe(Module& model);
/// The model of a description, not filled. `where` names the source in errors.
OLM_API Ref<Module> build(const Json& description, const std::string& where = "model.json");

/// Writes model.json and model.safetensors into `folder`, which is made; each file appears whole
/// or not at all. Ties and frozen parameters come back as they were.
OLM_API void save(Module& model, const std::string& folder);
/// Architecture and weights back from what save() wrote.
OLM_API Ref<Module> load(const std::string& folder);

/// model.json alone; the model that comes back is not filled.
OLM_API void save_architecture(Module& model, const std::string& path);
OLM_API Ref<Module> load_architecture(const std::string& path);

/// Weights alone. Tied parameters are stored once, their other keys in the metadata. Loading fills
/// by key and leaves the model's own ties as they are: parameters that are tied in the file alone
/// get a copy each, those that are tied in the model alone want the same values in the file. See
/// Module::load_state_dict.
OLM_API void save_weights(Module& model, const std::string& path);
OLM_API void load_weights(Module& model, const std::string& path, LoadOptions options = {});

template <class M>
void save(const Ref<M>& model, const std::string& folder) {
  save(*model, folder);
}

}  // namespace olm::nn
