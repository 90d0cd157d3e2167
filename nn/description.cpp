#include <olm/nn/description.h>

#include <algorithm>
#include <map>

#include <olm/nn/registry.h>

namespace olm::nn {
namespace {

constexpr int kMaxDepth = 64;                // of nested layers
constexpr int64_t kMaxLayers = 100000;       // in all
constexpr int64_t kMaxModules = 1000000;     // in all, with those that layers are made of
constexpr double kMaxParameters = 1e15;      // in all
constexpr double kMaxBufferBytes = 1 << 30;  // tables that layers compute when they are made

bool is_layer(const Json& json) { return json.is_object() && json.contains("type"); }
/// Also a list in which something else stands among layers, so that it is named by its place.
bool is_list_of_layers(const Json& json) {
  if (!json.is_array() || json.size() == 0) return false;
  const auto is_object = [](const Json& item) { return item.is_object(); };
  return std::any_of(json.items().begin(), json.items().end(), is_layer) ||
         std::all_of(json.items().begin(), json.items().end(), is_object);
}
/// Options that a layer may have under such a name or with such a value are kept apart from
/// children.
bool is_plain_option(const std::string& name, const Json& value) {
  return name != "type" && name != "options" && name != "children" && !is_layer(value) &&
         !(value.is_array() && (value.size() == 0 || is_list_of_layers(value)));
}

std::string step_text(const std::string& name) {
  const size_t dot = name.rfind('.');
  const bool listed = dot != std::string::npos && dot + 1 < name.size() &&
                      name.find_first_not_of("0123456789", dot + 1) == std::string::npos;
  return listed ? "." + name.substr(0, dot) + "[" + name.substr(dot + 1) + "]" : "." + name;
}

/// A layer as it stands in a description, in whichever form.
struct Described {
  std::string type;
  LayerMaker make;
  Json options = Json::object();
  std::vector<std::pair<std::string, const Json*>> children = {};
};

/// What `act` gives; its errors say where they come from.
template <class Act>
auto naming(const std::string& where, const Act& act) {
  try {
    return act();
  } catch (const Error& error) {
    throw Error(where, ": ", error.what());
  }
}

class Builder {
 public:
  explicit Builder(const BuildOptions& options) : given_(options) {}

  Ref<Module> build(const Json& json, const std::string& where, int depth) {
    require(depth < kMaxDepth, where, ": layers nest deeper than ", kMaxDepth);
    require(++layers_ <= kMaxLayers, where, ": more than ", kMaxLayers, " layers");
    Described layer = naming(where, [&] { return read(json); });
    DescribedChildren children;
    const int64_t times = repetitions(layer, where);
    for (const auto& [name, child] : layer.children) {
      const std::string at = where + step_text(name);
      if (times < 0) {
        children.emplace_back(name, build(*child, at, depth + 1));
        continue;
      }
      for (int64_t i = 0; i < times; ++i)
        children.emplace_back(name + "." + std::to_string(i), build(*child, at, depth + 1));
    }
    return naming(where, [&] { return made(layer, std::move(children)); });
  }

 private:
  static void add_option(Described& layer, const std::string& name, const Json& value) {
    require(!layer.options.contains(name), layer.type, ": the option \"", name, "\" comes twice");
    layer.options.append(name, value);
  }

  static void add_list(Described& layer, const std::string& name, const Json& list) {
    for (size_t i = 0; i < list.size(); ++i)
      layer.children.emplace_back(name + "." + std::to_string(i), &list.at(i));
  }

  static void add_member(Described& layer, const std::string& name, const Json& value) {
    if (is_layer(value))
      layer.children.emplace_back(name, &value);
    else if (is_list_of_layers(value))
      add_list(layer, name, value);
    else
      add_option(layer, name, value);
  }

  static Described read(const Json& json) {
    require(json.is_object(), "wanted a layer as an object, got ", json.kind());
    const Json* type = json.find("type");
    require(type && type->is_string(), "wanted a \"type\" with the name of a layer");
    Described layer{.type = type->as_string(), .make = layer_maker(type->as_string())};
    for (const auto& [name, value] : json.members()) {
      if (name == "type") continue;
      if (name == "options") {
        require(value.is_object(), "options: wanted an object, got ", value.kind());
        for (const auto& [option, given] : value.members()) add_option(layer, option, given);
      } else if (name == "children") {
        require(value.is_object(), "children: wanted an object, got ", value.kind());
        for (const auto& [child, given] : value.members())
          if (is_list_of_layers(given))
            add_list(layer, child, given);
          else
            layer.children.emplace_back(child, &given);
      } else if (value.is_array() && value.size() == 0 &&
                 !layer.make.default_options().contains(name)) {
        continue;  // a list without children
      } else {
        add_member(layer, name, value);
      }
    }
    return layer;
  }

  /// How often the only child of a Repeat in its short form stands there; -1 in the long form.
  static int64_t repetitions(Described& layer, const std::string& where) {
    if (layer.type != "Repeat") return -1;
    const Json* times = layer.options.find("num_repeat");
    if (!times) return -1;
    const double count = times->is_integer() ? times->as_double() : -1;
    require(count >= 0 && count <= double(kMaxLayers), where,
            ": Repeat: num_repeat wants an integer from 0 to ", kMaxLayers, ", got ",
            times->dump());
    require(layer.options.size() == 1, where, ": Repeat: unknown option \"",
            other_than(layer.options, "num_repeat"), "\"; known is num_repeat");
    require(layer.children.size() == 1 && layer.children[0].first == "stack", where,
            ": Repeat: with num_repeat one layer called stack was wanted");
    const int64_t result = times->as_int();
    layer.options = Json::object();
    return result;
  }
  static std::string other_than(const Json& options, const char* name) {
    for (const auto& [key, value] : options.members())
      if (key != name) return key;
    return "";
  }

  Ref<Module> made(Described& layer, DescribedChildren children) {
    if (layer.make.default_options().contains("vocab_size")) fill_vocab_size(layer);
    Ref<Module> module = layer.make(layer.options, children);
    const bool describes = module->describes_children();
    if (!describes)
      for (auto& [name, child] : children) module->replace(name, child);
    count(*module, layer.type, describes);
    return module;
  }

  void fill_vocab_size(Described& layer) const {
    const Json* size = layer.options.find("vocab_size");
    const bool open = !size || *size == Json("auto");
    if (open && given_.vocab_size) layer.options["vocab_size"] = *given_.vocab_size;
    require(!open || given_.vocab_size, layer.type, ": vocab_size is ",
            size ? "\"auto\"" : "missing", ", and no tokenizer says how many ids there are");
  }

  /// Counts what a layer holds by itself; what it was given was counted when that was made.
  void count(Module& module, const std::string& type, bool describes) {
    const auto take = [&](Parameter& p) { parameters_ += double(p.shape().numel()); };
    if (describes)
      module.for_each_own_parameter(take);
    else
      module.for_each_parameter([&](const std::string&, Parameter& p) { take(p); });
    if (!describes)
      module.for_each_buffer([&](const std::string&, Buffer& b) {
        buffer_bytes_ += double(b.tensor().numel()) * double(size_of(b.tensor().dtype()));
      });
    if (!describes) module.for_each_module([&](const std::string&, Module&) { ++modules_; });
    require(modules_ <= kMaxModules, type, ": the model grows beyond ", kMaxModules, " modules");
    require(parameters_ <= kMaxParameters && buffer_bytes_ <= kMaxBufferBytes, type,
            ": the model grows beyond ", kMaxParameters, " parameters or ", kMaxBufferBytes,
            " bytes of tables");
  }

  const BuildOptions& given_;
  int64_t layers_ = 0, modules_ = 0;
  double parameters_ = 0, buffer_bytes_ = 0;
};

/// Children by the names of their lists and single slots, in order; true where each list is whole.
using Groups = std::vector<std::pair<std::string, Json>>;

/// "blocks" and 2 of "blocks.2"; the name itself and -1 of another one.
std::pair<std::string, int64_t> list_and_index(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos || name.size() - dot - 1 == 0 || name.size() - dot - 1 > 9 ||
      name.find_first_not_of("0123456789", dot + 1) != std::string::npos)
    return {name, -1};
  return {name.substr(0, dot), std::stoll(name.substr(dot + 1))};
}

Groups grouped(const Json& children) {
  std::map<std::string, size_t> sizes;  // of lists, where they are numbered from 0; else 0
  std::map<std::string, bool> whole;
  for (const auto& [name, child] : children.members()) {
    const auto [list, index] = list_and_index(name);
    if (index < 0) continue;
    const bool next = size_t(index) == sizes[list]++;
    whole.emplace(list, true).first->second &= next;
  }
  Groups groups;
  for (const auto& [name, child] : children.members()) {
    const auto [list, index] = list_and_index(name);
    if (index < 0 || !whole[list]) {
      groups.emplace_back(name, shortened(child));
      continue;
    }
    if (index == 0) groups.emplace_back(list, Json::array());
    for (auto& [group, items] : groups)
      if (group == list) items.push_back(shortened(child));
  }
  return groups;
}

/// One layer for all of a Repeat, where they are equal.
bool fold(const std::string& type, Groups& groups, Json& json) {
  if (type != "Repeat" || groups.size() != 1 || !groups[0].second.is_array()) return false;
  const Json::Array& items = groups[0].second.items();
  for (const Json& item : items)
    if (!(item == items[0])) return false;
  json["num_repeat"] = items.size();
  const Json first = items[0];
  groups[0].second = first;
  return true;
}

/// True where something below was replaced, so that the module's options do not say all of it.
bool is_changed(Module& module) {
  for (const auto& [name, slot] : module.children())
    if (slot->replaced() || is_changed(*slot->module())) return true;
  return false;
}

}  // namespace

bool is_described(Module& owner, const ChildSlot& slot) {
  return owner.describes_children() || slot.replaced() || is_changed(*slot.module());
}

Json describe(Module& module) {
  Json json = Json::object();
  json["type"] = module.type_name();
  const Json options = module.options_json();
  if (options.size()) json["options"] = options;
  Json children = Json::object();
  for (const auto& [name, slot] : module.children())
    if (is_described(module, *slot)) children.append(name, describe(*slot->module()));
  if (children.size()) json["children"] = children;
  return json;
}

Ref<Module> build(const Json& description, const BuildOptions& options) {
  return Builder(options).build(description, options.where, 0);
}

Json shortened(const Json& description) {
  const Json none = Json::object();
  const Json *options = description.find("options"), *children = description.find("children");
  if (!options) options = &none;
  Json json = Json::object();
  json["type"] = description.at("type");
  Groups groups = grouped(children ? *children : none);
  const auto is_child = [&](const std::string& name) {
    return std::any_of(groups.begin(), groups.end(), [&](auto& g) { return g.first == name; });
  };
  bool plain = !is_child("type") && !is_child("options") && !is_child("children");
  for (const auto& [name, value] : options->members())
    plain = plain && is_plain_option(name, value) && !is_child(name);
  if (!plain) return description;
  for (const auto& [name, value] : options->members()) json.append(name, value);
  fold(description.at("type").as_string(), groups, json);
  for (auto& [name, value] : groups) json.append(name, std::move(value));
  return json;
}

std::string json_path(const std::string& module_path, const std::string& root) {
  std::string result = root, name;
  for (size_t at = 0; at < module_path.size();) {
    const size_t end = std::min(module_path.find('.', at), module_path.size());
    const std::string part = module_path.substr(at, end - at);
    const bool index = part.find_first_not_of("0123456789") == std::string::npos;
    result += index ? "[" + part + "]" : "." + part;
    at = end + 1;
  }
  return result;
}

}  // namespace olm::nn
