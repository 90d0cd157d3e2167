#pragma once
// Models as folders: model.json (architecture) and model.safetensors (weights).
#include <map>
#include <string>

#include <olm/engine/comm.h>
#include <olm/nn/description.h>
#include <olm/nn/module.h>

namespace olm::nn {

/// Writes model.json and model.safetensors into `folder`, which is made; each file appears whole
/// or not at all. Ties and frozen parameters come back as they were.
OLM_API void save(Module& model, const std::string& folder);
/// Architecture and weights back from what save() wrote, on `device`.
OLM_API Ref<Module> load(const std::string& folder, Device device = cpu);

/// model.json alone; the model that comes back is not filled. What is read is
///   {"model": description, "tied": {key: key whose parameter it shares}, "frozen": [key, …]}
/// of which the last two may be missing, or a description alone; see build().
OLM_API void save_architecture(Module& model, const std::string& path);
OLM_API Ref<Module> load_architecture(const std::string& path, const BuildOptions& options = {});
/// The same of what stands in such a file.
OLM_API Ref<Module> build_architecture(const Json& file, const BuildOptions& options = {});
/// The model of a folder that save() wrote, with its ties, not filled.
OLM_API Ref<Module> load_unfilled(const std::string& folder);
/// Another model of the same architecture, ties and frozen parameters, not filled.
OLM_API Ref<Module> unfilled_copy(Module& model);

/// Weights alone. Tied parameters are stored once, their other keys in the metadata. Loading fills
/// by key and leaves the model's own ties as they are: parameters that are tied in the file alone
/// get a copy each, those that are tied in the model alone want the same values in the file. See
/// Module::load_state_dict. Where ranks save they do it together, each a part of what it holds:
/// of their models all but what others keep. See write_safetensors.
OLM_API void save_weights(Module& model, const std::string& path, const dist::Comm& comm = {});
OLM_API void load_weights(Module& model, const std::string& path, LoadOptions options = {});

/// What such a file says of the model beside its tensors.
OLM_API std::map<std::string, std::string> weights_metadata(Module& model);

template <class M>
void save(const Ref<M>& model, const std::string& folder) {
  save(*model, folder);
}

}  // namespace olm::nn
