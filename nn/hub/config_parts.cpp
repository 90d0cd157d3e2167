// Keys of config.json that mean something together: activations and windows.
#include <algorithm>

#include <olm/nn/hub/config_internal.h>

namespace olm::nn::hub {

namespace {

// ---- activations -------------------------------------------------------------------------------

/// A name of transformers, and what it is.
struct Activation {
  const char* theirs;
  const char* plain;  ///< in an FFN of two matrices; "" where there is none here
  const char* gated;  ///< in one of three
  bool tanh;
};
/// Of those that are the same, the first is written; gelu_new and gelu_pytorch_tanh are one
/// formula.
constexpr Activation kActivations[] = {
    {"gelu_new", "gelu", "", true},      {"gelu_pytorch_tanh", "gelu", "geglu", true},
    {"gelu_new", "gelu", "geglu", true}, {"gelu_fast", "gelu", "geglu", true},
    {"gelu", "gelu", "geglu", false},    {"relu", "relu", "", false},
    {"silu", "", "swiglu", false},       {"swish", "", "swiglu", false}};

bool is_gated(const Family& family) {
  const DecoderConfig row = decoders().get(family.ours).defaults;
  return row.activation == "swiglu" || row.activation == "geglu";
}

const char* ours(const Activation& row, bool gated) { return gated ? row.gated : row.plain; }

bool has_key(const Family& family, const std::string& name) {
  const auto& keys = config_keys(family).keys;
  return std::any_of(keys.begin(), keys.end(),
                     [&](const ConfigKey& key) { return key.theirs == name; });
}

// ---- windows -----------------------------------------------------------------------------------

constexpr const char* kWindowed = "sliding_attention";
constexpr const char* kFull = "full_attention";

using Layers = std::vector<int64_t>;

Layers layers_from(const ConfigReader& in, int64_t layers, const Json& types) {
  require(types.is_array() && int64_t(types.size()) == layers,
          "config.json: layer_types wants a list of ", layers, " names, got ",
          types.is_array() ? std::to_string(types.size()) : types.dump());
  Layers result;
  for (int64_t i = 0; i < layers; ++i) {
    const Json& type = types.at(size_t(i));
    const bool windowed = type == Json(kWindowed);
    require(windowed || type == Json(kFull), "config.json: layer_types has ", type.dump(),
            ", which ", in.family().model_type, " is not known with; known are ", kFull, ", ",
            kWindowed);
    if (windowed) result.push_back(i);
  }
  return result;
}

template <class Test>
Layers layers_where(int64_t layers, const Test& test) {
  Layers result;
  for (int64_t i = 0; i < layers; ++i)
    if (test(i)) result.push_back(i);
  return result;
}

Layers windowed_layers(const ConfigReader& in, int64_t layers) {
  const WindowStyle style = in.keys().windows;
  if (style == WindowStyle::all || style == WindowStyle::switched)
    return layers_where(layers, [](int64_t) { return true; });
  const Json types = in.value("layer_types");
  if (!types.is_null()) return layers_from(in, layers, types);
  if (style == WindowStyle::upper) {
    const int64_t first = in.integer("max_window_layers");
    return layers_where(layers, [&](int64_t i) { return i >= first; });
  }
  const bool said = has_key(in.family(), "sliding_window_pattern");
  const int64_t pattern = said ? in.integer("sliding_window_pattern") : in.keys().pattern;
  require(pattern > 0, "config.json: sliding_window_pattern wants a number above 0, got ", pattern);
  return layers_where(layers, [&](int64_t i) { return (i + 1) % pattern != 0; });
}

/// n where all layers but each n-th are windowed; 0 for none.
int64_t pattern_of(const Layers& windowed, int64_t layers) {
  for (int64_t n = 1; n <= layers + 1; ++n)
    if (layers_where(layers, [&](int64_t i) { return (i + 1) % n != 0; }) == windowed) return n;
  return 0;
}

}  // namespace

void read_activation(const ConfigReader& in, const ConfigKey& key, Members& members) {
  // A null means the other key of the family.
  if (in.value(key.theirs).is_null()) return;
  const std::string name = in.text(key.theirs);
  const bool gated = is_gated(in.family());
  const bool gemma = in.family().model_type == std::string("gemma");
  for (const Activation& row : kActivations) {
    if (row.theirs != name || *ours(row, gated) == '\0') continue;
    members["activation"] = ours(row, gated);
    // The first Gemma was published with "gelu" where its tanh approximation is meant.
    members["gelu_tanh"] = row.tanh || (gemma && name == "gelu");
    return;
  }
  fail("config.json: ", key.theirs, " is \"", name, "\", which is not computed here");
}

Json activation_to_json(const DecoderConfig& c, const Family& family) {
  const bool gated = is_gated(family);
  for (const Activation& row : kActivations)
    if (ours(row, gated) == *c.activation && row.tanh == c.gelu_tanh.value_or(false))
      return row.theirs;
  fail("config.json of ", family.model_type, " cannot say that activation is ", *c.activation);
}

void read_windows(const ConfigReader& in, Members& members) {
  const WindowStyle style = in.keys().windows;
  members["sliding_window"] = Json();
  members["window_layers"] = Json();
  if (style == WindowStyle::none) return;
  const bool switched = style == WindowStyle::switched || style == WindowStyle::upper;
  if (switched && !in.boolean("use_sliding_window")) return;
  if (in.value("sliding_window").is_null()) return;
  const int64_t window = in.integer("sliding_window");
  const int64_t layers = members.at("num_layers").as_int();
  require(layers >= 0 && layers <= 10000, "config.json: wanted at most 10000 layers, got ", layers);
  const Layers windowed = windowed_layers(in, layers);
  if (windowed.empty()) return;
  members["sliding_window"] = window;
  members["window_layers"] = Json(windowed);
}

void write_windows(const DecoderConfig& c, const Family& family, Json& json) {
  const ConfigKeys& keys = config_keys(family);
  if (keys.windows == WindowStyle::none) return;
  const Layers& windowed = c.window_layers;
  json["sliding_window"] = c.sliding_window ? Json(*c.sliding_window) : Json();
  if (has_key(family, "use_sliding_window")) json["use_sliding_window"] = !windowed.empty();
  if (keys.windows == WindowStyle::upper)
    json["max_window_layers"] = windowed.empty() ? c.num_layers : windowed.front();
  if (has_key(family, "sliding_window_pattern"))
    if (const int64_t n = pattern_of(windowed, c.num_layers)) json["sliding_window_pattern"] = n;
  if (!has_key(family, "layer_types")) return;
  Json types = Json::array();
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const bool in_list = std::find(windowed.begin(), windowed.end(), i) != windowed.end();
    types.push_back(in_list ? kWindowed : kFull);
  }
  json["layer_types"] = types;
}

}  // namespace olm::nn::hub
