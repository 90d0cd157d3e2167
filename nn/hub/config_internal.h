#pragma once
// config.json, key by key.
#include <string>
#include <vector>

#include <olm/nn/hub/names_internal.h>

namespace olm::nn::hub {

/// What a key of config.json has to do with a configuration.
enum class Means : uint8_t {
  member,      ///< its value is that of the members
  fixed,       ///< only values equal to `absent`, or null, can be computed with
  activation,  ///< name of an activation
  windows,     ///< together with others, which layers have a window
  rope,        ///< together with others, how RoPE turns
  nothing,     ///< what a trained model computes does not depend on it
};

/// A key of config.json.
struct ConfigKey {
  const char* theirs;
  const char* ours;    ///< members of DecoderConfig, separated by spaces
  const char* absent;  ///< JSON of the value that a file without the key has
  Means means = Means::member;
};

/// How a family says which layers have a window.
enum class WindowStyle : uint8_t {
  none,      ///< no layer has one
  all,       ///< every layer has sliding_window, where that is not null
  switched,  ///< the same if use_sliding_window is true
  upper,     ///< layer_types, else those from max_window_layers on, if use_sliding_window is true
  typed,  ///< layer_types, else all but each n-th, which `pattern` or sliding_window_pattern says
};

/// The keys of a family, and what they say together.
struct ConfigKeys {
  std::vector<ConfigKey> keys = {};
  WindowStyle windows = WindowStyle::none;
  int64_t pattern = 0;          ///< of WindowStyle::typed
  double rope_theta = 10000;    ///< where a file has none
  double local_rope_theta = 0;  ///< of layers with a window; 0 where there is one for all
  bool partial_rotary = false;  ///< knows partial_rotary_factor
  bool longrope = false;      ///< its only scaling, from original_max_position_embeddings beside it
  const char* always = "{}";  ///< JSON of members that no key says, where the row differs
};
const ConfigKeys& config_keys(const Family& family);

/// Members by name: what a configuration of the family "decoder" has, null for none.
using Members = Json;

/// A config.json that is being read.
class ConfigReader {
 public:
  ConfigReader(const Json& config, const Family& family);
  const Family& family() const { return family_; }
  const ConfigKeys& keys() const { return keys_; }
  /// The value of a key, or what stands for it; null too where it is null.
  Json value(const std::string& key) const;
  bool has(const std::string& key) const { return config_.contains(key); }
  /// The same as a number or text; throws naming the key where it is of another kind.
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  bool boolean(const std::string& key) const;
  std::string text(const std::string& key) const;
  const Json& file() const { return config_; }

 private:
  const Json& config_;
  const Family& family_;
  const ConfigKeys& keys_;
};

/// Each reads its part of config.json into members, and writes it. `not_understood` gains keys
/// inside of objects.
void read_activation(const ConfigReader& in, const ConfigKey& key, Members& members);
void read_windows(const ConfigReader& in, Members& members);
void read_rope(const ConfigReader& in, Members& members, std::vector<std::string>& not_understood);
Json activation_to_json(const DecoderConfig& config, const Family& family);
/// `config` is normalized. Keys that the family has are set in `json`.
void write_windows(const DecoderConfig& config, const Family& family, Json& json);
/// Both spellings; `keep` leaves values of keys that are there.
void write_rope(const DecoderConfig& config, const Family& family, bool keep, Json& json);

}  // namespace olm::nn::hub
