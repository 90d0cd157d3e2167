// RoPE in config.json, in its two spellings: rope_theta and rope_scaling, or rope_parameters.
#include <algorithm>
#include <cmath>
#include <string_view>

#include <olm/nn/hub/config_internal.h>
#include <olm/nn/models/decoder_internal.h>

namespace olm::nn::hub {

namespace {

struct Type {
  const char *theirs, *ours;
};
constexpr Type kTypes[] = {{"default", "none"}, {"linear", "linear"}, {"dynamic", "dynamic_ntk"},
                           {"yarn", "yarn"},    {"llama3", "llama3"}, {"longrope", "longrope"}};

/// A parameter of scaling; `types` have it, `needed` must.
struct Parameter {
  const char *theirs, *ours, *types, *needed;
};
constexpr Parameter kParameters[] = {
    {"factor", "scaling_factor", "linear dynamic yarn llama3 longrope", "linear dynamic llama3"},
    {"original_max_position_embeddings", "original_max_seq_len", "yarn llama3 longrope", ""},
    {"low_freq_factor", "low_freq_factor", "llama3", "llama3"},
    {"high_freq_factor", "high_freq_factor", "llama3", "llama3"},
    {"beta_fast", "yarn_beta", "yarn", ""},
    {"beta_slow", "yarn_alpha", "yarn", ""},
    {"mscale", "mscale", "yarn", ""},
    {"mscale_all_dim", "mscale_all_dim", "yarn", ""},
    {"truncate", "truncate", "yarn", ""},
    {"attention_factor", "attention_factor", "yarn longrope", ""},
    {"short_factor", "short_factor", "longrope", "longrope"},
    {"long_factor", "long_factor", "longrope", "longrope"}};

constexpr const char *kFull = "full_attention", *kSliding = "sliding_attention";

bool has_word(const std::string& words, const std::string& word) {
  return (" " + words + " ").find(" " + word + " ") != std::string::npos;
}

/// What one spelling says.
struct Turning {
  double theta = 0;
  double partial = 1;
  RopeScalingOptions scaling = {};
};

class RopeReader {
 public:
  RopeReader(const ConfigReader& in, std::vector<std::string>& not_understood)
      : in_(in), not_understood_(not_understood) {
    positions_ = in.integer("max_position_embeddings");
    require(positions_ >= 1, "config.json: max_position_embeddings is ", positions_);
  }

  void read(Members& members) {
    const Json scaling = object("rope_scaling"), parameters = object("rope_parameters");
    const bool nested = in_.keys().local_rope_theta > 0;
    Turning turning = read_one(scaling, "rope_scaling");
    double local = number(in_.file(), "rope_local_base_freq", in_.keys().local_rope_theta);
    if (!parameters.is_null()) {
      const Json own = nested ? part(parameters, kFull) : parameters;
      const bool said = !nested || own.size() > 0;
      const Turning newer = said ? read_one(own, "rope_parameters") : turning;
      require_agreement(scaling, own, turning, newer);
      turning = newer;
      if (nested) local = local_theta(part(parameters, kSliding), local);
    }
    members["rope_theta"] = turning.theta;
    members["local_rope_theta"] = nested ? Json(local) : Json();
    members["max_seq_len"] = reach(turning.scaling);
    members["rope_scaling"] = to_json(turning.scaling);
    members["partial_rotary_factor"] = turning.partial == 1 ? Json() : Json(turning.partial);
    check_partial(members, turning);
  }

 private:
  Json object(const std::string& key) const {
    const Json value = in_.value(key);
    require(value.is_null() || value.is_object(), "config.json: ", key,
            " wants an object or null, got ", value.dump());
    return value;
  }

  /// Of one kind of layer.
  Json part(const Json& parameters, const char* kind) {
    for (const auto& [name, value] : parameters.members())
      require(name == kFull || name == kSliding, "config.json: rope_parameters of ",
              in_.family().model_type, " has ", name, "; known are ", kFull, ", ", kSliding);
    const Json* found = parameters.find(kind);
    if (!found || found->is_null()) return Json::object();
    require(found->is_object(), "config.json: rope_parameters.", kind, " wants an object, got ",
            found->dump());
    return *found;
  }

  double number(const Json& object, const char* key, double absent) const {
    const Json* found = object.is_object() ? object.find(key) : nullptr;
    if (!found || found->is_null()) return absent;
    require(found->is_number() && found->as_double() > 0, "config.json: ", key,
            " wants a number above 0, got ", found->dump());
    return found->as_double();
  }

  Turning read_one(const Json& object, const std::string& where) {
    Turning result;
    result.theta =
        number(object, "rope_theta", number(in_.file(), "rope_theta", in_.keys().rope_theta));
    result.partial =
        number(object, "partial_rotary_factor", number(in_.file(), "partial_rotary_factor", 1));
    if (object.is_object()) result.scaling = read_scaling(object, where);
    return result;
  }

  std::string type_of(const Json& object, const std::string& where) const {
    const Json* type = object.find("rope_type");
    if (!type) type = object.find("type");
    if (!type || type->is_null()) return "default";
    require(type->is_string(), "config.json: ", where, ".rope_type wants a text, got ",
            type->dump());
    std::string name = type->as_string();
    const bool longrope = in_.keys().longrope;
    if (longrope && (name == "su" || name == "yarn")) name = "longrope";  // its former names
    std::string known;
    for (const Type& row : kTypes) {
      if (longrope && row.theirs != std::string_view("default") &&
          row.theirs != std::string_view("longrope"))
        continue;
      if (row.theirs == name) return name;
      known += (known.empty() ? "" : ", ") + std::string(row.theirs);
    }
    fail("config.json: ", where, " has the rope_type \"", name, "\", which ",
         in_.family().model_type, " is not known with; known are ", known);
  }

  RopeScalingOptions read_scaling(const Json& object, const std::string& where) {
    const std::string type = type_of(object, where);
    Json ours = Json::object();
    for (const Type& row : kTypes)
      if (row.theirs == type && type != "default") ours["scaling_type"] = row.ours;
    for (const Parameter& row : kParameters) {
      const Json* value = object.find(row.theirs);
      const bool given =
          value && !value->is_null() && !(*value == Json(0)) && !(*value == Json(0.0));
      require(given || !has_word(row.needed, type), "config.json: ", where, " of the rope_type ",
              type, " wants ", row.theirs);
      if (given && has_word(row.types, type)) ours[row.ours] = *value;
    }
    name_unknown(object, type, where);
    if (type == "yarn" || type == "llama3" || type == "longrope") {
      const Json trained =
          in_.keys().longrope ? in_.value("original_max_position_embeddings") : Json();
      if (!trained.is_null()) ours["original_max_seq_len"] = trained;
      if (!ours.contains("original_max_seq_len")) ours["original_max_seq_len"] = positions_;
    }
    if (type == "dynamic") ours["original_max_seq_len"] = positions_;
    RopeScalingOptions result;
    from_json(ours, result, "config.json: " + where);
    return result;
  }

  void name_unknown(const Json& object, const std::string& type, const std::string& where) {
    for (const auto& member : object.members()) {
      const std::string& name = member.first;
      if (name == "rope_type" || name == "type" || name == "rope_theta" ||
          name == "partial_rotary_factor")
        continue;
      require(name != "mrope_section", "config.json: ", where,
              " has mrope_section, rotations of images, which are not computed here");
      const bool known = std::any_of(
          std::begin(kParameters), std::end(kParameters),
          [&](const Parameter& row) { return row.theirs == name && has_word(row.types, type); });
      if (!known) not_understood_.push_back("config.json: " + where + "." + name);
    }
  }

  void require_agreement(const Json& scaling, const Json& parameters, const Turning& former,
                         const Turning& newer) const {
    if (scaling.is_null()) return;
    const auto meaning = [&](const Turning& turning) {
      return to_json(normalized(turning.scaling, positions_));
    };
    require(meaning(former) == meaning(newer) && former.partial == newer.partial,
            "config.json: rope_scaling ", scaling.dump(), " and rope_parameters ",
            parameters.dump(), " contradict each other");
    require(former.theta == newer.theta, "config.json: rope_theta ", former.theta,
            " beside a rope_scaling and rope_parameters.rope_theta ", newer.theta,
            " contradict each other");
  }

  double local_theta(const Json& sliding, double absent) const {
    const Json* type = sliding.find("rope_type");
    require(!type || *type == Json("default"),
            "config.json: rope_parameters.sliding_attention has the rope_type ",
            type ? type->dump() : "", "; known is default");
    return number(sliding, "rope_theta", absent);
  }

  /// Positions of a text: dynamic scaling alone goes beyond max_position_embeddings.
  int64_t reach(const RopeScalingOptions& scaling) const {
    if (scaling.scaling_type != "dynamic_ntk") return positions_;
    const double end = std::ceil(double(positions_) * *scaling.scaling_factor);
    require(end < 1e9, "config.json: ", positions_, " positions times a factor of ",
            *scaling.scaling_factor, " are too many");
    return std::max(positions_, int64_t(end));
  }

  void check_partial(const Members& members, const Turning& turning) const {
    require(turning.partial == 1 || in_.keys().partial_rotary,
            "config.json: partial_rotary_factor is ", turning.partial, ", which ",
            in_.family().model_type, " is not known with");
    if (turning.scaling.scaling_type != "longrope" && turning.partial == 1) return;
    const Json* own = members.find("head_dim");
    const int64_t heads = members.at("num_heads").as_int();
    require(heads > 0, "config.json: there are ", heads, " heads");
    const int64_t head_dim =
        own && own->is_integer() ? own->as_int() : members.at("embed_dim").as_int() / heads;
    require(turning.partial <= 1 && head_dim < (int64_t(1) << 40),
            "config.json: partial_rotary_factor is ", turning.partial, ", wanted at most 1");
    const auto rotated = int64_t(double(head_dim) * turning.partial);
    require(rotated > 0 && rotated % 2 == 0, "config.json: partial_rotary_factor ", turning.partial,
            " of heads of ", head_dim, " leaves ", rotated, " dimensions, wanted an even number");
    if (turning.scaling.scaling_type != "longrope") return;
    for (const auto* factors : {&turning.scaling.short_factor, &turning.scaling.long_factor})
      require(int64_t(factors->size()) == rotated / 2,
              "config.json: rope_scaling: short_factor and long_factor want ", rotated / 2,
              " numbers, got ", factors->size());
  }

  const ConfigReader& in_;
  std::vector<std::string>& not_understood_;
  int64_t positions_ = 0;
};

/// A whole number that stands for a real one keeps its point: "factor": 8.0.
Json written(const Parameter& row, const Json& value) {
  const std::string_view name = row.ours;
  const bool whole = name == "original_max_seq_len" || name == "truncate";
  return whole || !value.is_integer() ? value : Json(value.as_double());
}

/// {"rope_type": …} and its parameters; null for no scaling.
Json spelled(const DecoderConfig& c, const Family& family) {
  const RopeScalingOptions& scaling = c.rope_scaling;
  if (!scaling.scaling_type) return {};
  Json result = Json::object();
  for (const Type& row : kTypes)
    if (*scaling.scaling_type == row.ours) result["rope_type"] = row.theirs;
  require(result.size() == 1, "config.json of ", family.model_type,
          " cannot say that rope_scaling ", "is ", *scaling.scaling_type);
  const std::string type = result.at("rope_type").as_string();
  const Json values = to_json(scaling);
  for (const Parameter& row : kParameters) {
    const Json& value = values.at(row.ours);
    const bool empty = value.is_null() || (value.is_array() && value.size() == 0);
    if (!empty && has_word(row.types, type)) result[row.theirs] = written(row, value);
  }
  return result;
}

/// The former spelling, which Phi-3 has with no more than this.
Json former(const DecoderConfig& c, const ConfigKeys& keys, const Json& scaling) {
  if (!keys.longrope || scaling.is_null()) return scaling;
  Json result = Json::object();
  result["type"] = scaling.at("rope_type");
  for (const auto& [name, value] : scaling.members()) {
    const bool follows =
        name == "rope_type" || name == "original_max_position_embeddings" ||
        (name == "factor" &&
         value == Json(double(c.max_seq_len) / double(*c.rope_scaling.original_max_seq_len)));
    if (!follows) result[name] = value;
  }
  return result;
}

Json newer(const DecoderConfig& c, const ConfigKeys& keys, const Json& scaling) {
  Json result = scaling.is_null() ? Json::object() : scaling;
  if (scaling.is_null()) result["rope_type"] = "default";
  result["rope_theta"] = *c.rope_theta;
  if (keys.partial_rotary) result["partial_rotary_factor"] = c.partial_rotary_factor.value_or(1);
  if (keys.local_rope_theta == 0) return result;
  Json local = Json::object(), both = Json::object();
  local["rope_type"] = "default";
  local["rope_theta"] = c.local_rope_theta.value_or(*c.rope_theta);
  both[kFull] = result;
  both[kSliding] = local;
  return both;
}

}  // namespace

void read_rope(const ConfigReader& in, Members& members, std::vector<std::string>& not_understood) {
  const auto& keys = in.keys().keys;
  const bool turns = std::any_of(keys.begin(), keys.end(),
                                 [](const ConfigKey& key) { return key.means == Means::rope; });
  if (turns) RopeReader(in, not_understood).read(members);
}

void write_rope(const DecoderConfig& c, const Family& family, bool keep, Json& json) {
  const ConfigKeys& keys = config_keys(family);
  const Json scaling = spelled(c, family);
  const auto set = [&](const std::string& key, const Json& value) {
    const Json* old = json.find(key);
    if (!keep || !old || (old->is_null() && !value.is_null())) json[key] = value;
  };
  const bool dynamic = c.rope_scaling.scaling_type == "dynamic_ntk";
  set("max_position_embeddings", dynamic ? *c.rope_scaling.original_max_seq_len : c.max_seq_len);
  if (keys.longrope && c.rope_scaling.original_max_seq_len)
    set("original_max_position_embeddings", *c.rope_scaling.original_max_seq_len);
  set("rope_theta", *c.rope_theta);
  set("rope_scaling", former(c, keys, scaling));
  if (keys.local_rope_theta > 0)
    set("rope_local_base_freq", c.local_rope_theta.value_or(*c.rope_theta));
  if (keys.partial_rotary) set("partial_rotary_factor", c.partial_rotary_factor.value_or(1));
  set("rope_parameters", newer(c, keys, scaling));
}

}  // namespace olm::nn::hub
