#include <olm/nn/model_io.h>

#include <algorithm>
#include <functional>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/registry.h>

namespace olm::nn {
namespace {

constexpr const char* kFormat = "libolm model";
constexpr int kMaxDepth = 64;  // of nested modules in a file

/// True where something below was replaced, so that the module's options do not say all of it.
bool is_changed(Module& module) {
  for (const auto& [name, slot] : module.children())
    if (slot->replaced() || is_changed(*slot->module())) return true;
  return false;
}

/// True where a description of `owner` has to hold this child.
bool is_described(Module& owner, const ChildSlot& slot) {
  return owner.describes_children() || slot.replaced() || is_changed(*slot.module());
}

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

Ref<Module> build_at(const Json& json, const std::string& where, int depth) {
  require(depth < kMaxDepth, where, ": modules nest deeper than ", kMaxDepth);
  require(json.is_object(), where, ": wanted an object, got ", json.kind());
  for (const auto& [key, value] : json.members())
    require(key == "type" || key == "options" || key == "children", where, ": unknown key \"", key,
            "\"; known are type, options, children");
  const Json* type = json.find("type");
  require(type && type->is_string(), where, ": wanted a \"type\" with the name of a layer");
  const Json* options = json.find("options");
  const Json* described = json.find("children");
  DescribedChildren children;
  if (described) {
    require(described->is_object(), where, ".children: wanted an object, got ", described->kind());
    for (const auto& [name, child] : described->members())
      children.emplace_back(name, build_at(child, where + "." + name, depth + 1));
  }
  const Json none = Json::object();
  const LayerMaker maker = layer_maker(type->as_string());
  Ref<Module> module;
  try {
    module = maker(options ? *options : none, children);
  } catch (const Error& error) {
    throw Error(where, ": ", error.what());
  }
  if (!module->describes_children())
    for (auto& [name, child] : children) module->replace(name, child);
  return module;
}

}  // namespace

Json describe(Module& module) {
  Json json = Json::object();
  json["type"] = module.type_name();
  const Json options = module.options_json();
  if (options.size()) json["options"] = options;
  Json children = Json::object();
  for (const auto& [name, slot] : module.children())
    if (is_described(module, *slot)) children[name] = describe(*slot->module());
  if (children.size()) json["children"] = children;
  return json;
}

Ref<Module> build(const Json& description, const std::string& where) {
  return build_at(description, where, 0);
}

void save_weights(Module& model, const std::string& path) {
  std::vector<NamedTensor> stored;
  std::map<const TensorImpl*, std::string> first_key;
  Json tied = Json::object();
  for (const auto& [key, tensor] : model.state_dict()) {
    const auto [at, fresh] = first_key.emplace(&tensor.impl(), key);
    if (fresh)
      stored.emplace_back(key, tensor);
    else
      tied[key] = at->second;
  }
  std::map<std::string, std::string> metadata{{"format", "libolm"}};
  if (tied.size()) metadata["tied"] = tied.dump();
  write_safetensors(path, stored, metadata);
}

namespace {

/// Keys of a file's metadata that share the tensor of another key, and that key.
std::vector<std::pair<std::string, std::string>> tied_keys(const SafetensorsFile& file) {
  std::vector<std::pair<std::string, std::string>> result;
  const auto found = file.metadata().find("tied");
  if (found == file.metadata().end()) return result;
  const Json aliases = Json::parse(found->second, "metadata \"tied\"");
  require(aliases.is_object(), "metadata \"tied\" is no object");
  const std::vector<std::string> names = file.names();
  for (const auto& [key, first] : aliases.members()) {
    const bool known = first.is_string() &&
                       std::find(names.begin(), names.end(), first.as_string()) != names.end();
    require(known, "tied key ", key, " refers to ", first.dump(), ", which is not there");
    result.emplace_back(key, first.as_string());
  }
  return result;
}

}  // namespace

void load_weights(Module& model, const std::string& path, LoadOptions options) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : file.names()) tensors[name] = file.tensor(name);
  try {
    for (const auto& [key, first] : tied_keys(file)) tensors.emplace(key, tensors.at(first));
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

Json architecture(Module& model) {
  require_rebuildable(model, "");
  Json json = Json::object();
  json["format"] = kFormat;
  json["version"] = 1;
  json["model"] = describe(model);
  if (const Json tied = ties_of(model); tied.size()) json["tied"] = tied;
  Json frozen = Json::array();
  model.for_each_parameter([&](const std::string& key, Parameter& p) {
    if (!p.trainable()) frozen.push_back(key);
  });
  if (frozen.size()) json["frozen"] = frozen;
  return json;
}

/// Builds the model of a model.json with its ties, has it filled, and freezes what is to be frozen.
Ref<Module> read_model(const std::string& path, const std::function<void(Module&)>& fill) {
  const Json json = read_json(path);
  try {
    require(json.is_object(), "wanted an object, got ", json.kind());
    const Json* format = json.find("format");
    require(format && *format == Json(kFormat), "is not a ", kFormat, " file");
    require(json.at("version") == Json(1), "has version ", json.at("version").dump(),
            "; this library reads version 1");
    Ref<Module> model = build(json.at("model"), "model");
    if (const Json* tied = json.find("tied"))
      for (const auto& [key, first] : tied->members())
        model->parameter(key) = model->parameter(first.as_string());
    fill(*model);
    if (const Json* frozen = json.find("frozen"))
      for (const Json& key : frozen->items())
        model->parameter(key.as_string()).set_trainable(false);
    return model;
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

Ref<Module> load_architecture(const std::string& path) {
  return read_model(path, [](Module&) {});
}

void save(Module& model, const std::string& folder) {
  const Json json = architecture(model);
  make_directories(folder);
  save_weights(model, folder + "/model.safetensors");
  write_json(folder + "/model.json", json);
}

Ref<Module> load(const std::string& folder) {
  const std::string weights = folder + "/model.safetensors";
  return read_model(folder + "/model.json", [&](Module& model) {
    tie_as_stored(model, weights);
    load_weights(model, weights);
  });
}

}  // namespace olm::nn
