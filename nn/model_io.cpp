#include <olm/nn/model_io.h>

#include <algorithm>
#include <functional>
#include <set>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/registry.h>

namespace olm::nn {
namespace {

constexpr const char* kFormat = "libolm model";

/// Throws unless every module that build() would have to make is in the registry.
void require_rebuildable(Module& module, const std::string& path) {
  const std::string type = module.type_name();
  require(knows_layer(type), "save: the ", type, " at \"", path,
          "\" is not in the registry; add it with layers().add(\"", type,
          "\", …), or use save_weights");
  const Json options = module.options_json();
  if (const Json* merge = options.find("merge"))
    require(!merge->is_string() || !merge->as_string().empty(), "save: the ", type, " at \"", path,
            "\" has a merge function without a name");
  for (const auto& [name, slot] : module.children())
    if (is_described(module, *slot))
      require_rebuildable(*slot->module(), path.empty() ? name : path + "." + name);
}

/// Keys whose parameter has an earlier key too, and that one.
Json ties_of(Module& model) {
  std::map<const TensorImpl*, std::string> first_key;
  Json tied = Json::object();
  model.for_each_parameter([&](const std::string& key, Parameter& p) {
    const auto [at, fresh] = first_key.emplace(&p.handle().impl(), key);
    if (!fresh) tied[key] = at->second;
  });
  return tied;
}

}  // namespace

std::map<std::string, std::string> weights_metadata(Module& model) {
  std::map<std::string, std::string> metadata{{"format", "libolm"}};
  if (const Json tied = ties_of(model); tied.size()) metadata["tied"] = tied.dump();
  return metadata;
}

void save_weights(Module& model, const std::string& path) {
  std::vector<NamedTensor> stored;
  std::set<const TensorImpl*> seen;
  model.for_each_parameter([&](const std::string& key, Parameter& p) {
    require(!p.is_elsewhere(), "save_weights: the values of ", key, " are on another rank");
  });
  for (const auto& [key, tensor] : model.state_dict())
    if (seen.insert(&tensor.impl()).second) stored.emplace_back(key, tensor);
  write_safetensors(path, stored, weights_metadata(model));
}

namespace {

/// Keys of a file's metadata that share the tensor of another key, and that key.
std::vector<std::pair<std::string, std::string>> tied_keys(const SafetensorsFile& file) {
  std::vector<std::pair<std::string, std::string>> result;
  const auto found = file.metadata().find("tied");
  if (found == file.metadata().end()) return result;
  const Json aliases = Json::parse(found->second, "metadata \"tied\"");
  require(aliases.is_object(), "metadata \"tied\" is no object");
  for (const auto& [key, first] : aliases.members()) {
    require(first.is_string(), "tied key ", key, " refers to ", first.dump(),
            ", which is not there");
    result.emplace_back(key, first.as_string());
  }
  return result;
}

bool has_parameter(Module& model, const std::string& key) {
  bool found = false;
  model.for_each_parameter([&](const std::string& own, Parameter&) { found |= own == key; });
  return found;
}

}  // namespace

void load_weights(Module& model, const std::string& path, LoadOptions options) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : file.names()) tensors[name] = file.tensor(name);
  try {
    for (const auto& [key, first] : tied_keys(file)) {
      const auto found = tensors.find(first);
      if (found != tensors.end()) tensors.emplace(key, found->second);
      // Of a key that the model has, load_state_dict says that it is missing.
      require(found != tensors.end() || has_parameter(model, first), "tied key ", key,
              " refers to \"", first, "\", which is not there");
    }
    model.load_state_dict(tensors, options);
  } catch (const Error& error) {
    throw FileError(path, ": ", error.what());
  }
}

namespace {

/// Ties what the weights in a file tie.
void tie_as_stored(Module& model, const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  try {
    for (const auto& [key, first] : tied_keys(file)) model.parameter(key) = model.parameter(first);
  } catch (const Error& error) {
    throw FileError(path, ": ", error.what());
  }
}

Json architecture(Module& model) {
  require_rebuildable(model, "");
  Json json = Json::object();
  json["format"] = kFormat;
  json["version"] = 2;
  json["model"] = shortened(describe(model));
  if (const Json tied = ties_of(model); tied.size()) json["tied"] = tied;
  Json frozen = Json::array();
  model.for_each_parameter([&](const std::string& key, Parameter& p) {
    if (!p.trainable()) frozen.push_back(key);
  });
  if (frozen.size()) json["frozen"] = frozen;
  return json;
}

/// Throws for a file that is something else, and for what a later version wrote.
void check_head(const Json& json) {
  require(json.is_object(), "wanted an object, got ", json.kind());
  for (const auto& [key, value] : json.members()) {
    const bool known =
        key == "format" || key == "version" || key == "model" || key == "tied" || key == "frozen";
    require(known, "unknown key \"", key, "\" beside \"model\"; known are format, version, model, ",
            "tied, frozen");
  }
  const Json *format = json.find("format"), *version = json.find("version");
  require(json.contains("model") && (!format || *format == Json(kFormat)), "is not a ", kFormat,
          " file");
  require(!version || *version == Json(1) || *version == Json(2), "has version ",
          version ? version->dump() : "", "; this library reads versions 1 and 2");
}

/// Does `act` with each member of json[name], whose errors then say where it stands.
template <class Act>
void for_each_key(const Json& json, const char* name, const Act& act) {
  const Json* list = json.find(name);
  if (!list) return;
  try {
    act(*list);
  } catch (const Error& error) {
    throw Error("$.", name, ": ", error.what());
  }
}

/// The model of a file with its ties, filled by `fill`, with what is to be frozen frozen.
Ref<Module> model_of(const Json& json, const BuildOptions& options,
                     const std::function<void(Module&)>& fill) {
  if (json.is_object() && json.contains("type")) {
    const Ref<Module> model = build(json, options);
    fill(*model);
    return model;
  }
  check_head(json);
  BuildOptions below = options;
  below.where += ".model";
  Ref<Module> model = build(json.at("model"), below);
  for_each_key(json, "tied", [&](const Json& tied) {
    for (const auto& [key, first] : tied.members())
      model->parameter(key) = model->parameter(first.as_string());
  });
  fill(*model);
  for_each_key(json, "frozen", [&](const Json& frozen) {
    for (const Json& key : frozen.items()) model->parameter(key.as_string()).set_trainable(false);
  });
  return model;
}

Ref<Module> read_model(const std::string& path, const BuildOptions& options,
                       const std::function<void(Module&)>& fill) {
  const Json json = read_json(path);
  try {
    return model_of(json, options, fill);
  } catch (const FileError&) {
    throw;
  } catch (const Error& error) {
    throw FileError(path, ": ", error.what());
  }
}

}  // namespace

void save_architecture(Module& model, const std::string& path) {
  write_json(path, architecture(model));
}

Ref<Module> load_architecture(const std::string& path, const BuildOptions& options) {
  return read_model(path, options, [](Module&) {});
}

Ref<Module> load_unfilled(const std::string& folder) {
  return read_model(folder + "/model.json", {},
                    [&](Module& model) { tie_as_stored(model, folder + "/model.safetensors"); });
}

Ref<Module> build_architecture(const Json& file, const BuildOptions& options) {
  return model_of(file, options, [](Module&) {});
}

Ref<Module> unfilled_copy(Module& model) { return build_architecture(architecture(model)); }

void save(Module& model, const std::string& folder) {
  const Json json = architecture(model);
  make_directories(folder);
  save_weights(model, folder + "/model.safetensors");
  write_json(folder + "/model.json", json);
}

Ref<Module> load(const std::string& folder, Device device) {
  require_device(device);
  const std::string weights = folder + "/model.safetensors";
  const Ref<Module> model = read_model(folder + "/model.json", {}, [&](Module& model) {
    tie_as_stored(model, weights);
    load_weights(model, weights);
  });
  model->to(device);
  return model;
}

}  // namespace olm::nn
