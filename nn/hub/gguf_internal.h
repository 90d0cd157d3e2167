#pragma once
// Metadata of GGUF files: to configurations and back.
#include <string>
#include <variant>
#include <vector>

#include <olm/engine/gguf.h>
#include <olm/nn/hub/stored_internal.h>

namespace olm::nn::hub {

/// A key, behind the architecture's name and a dot, and the member that it holds.
struct GgufRow {
  const char* key;
  std::variant<int64_t DecoderConfig::*, std::optional<int64_t> DecoderConfig::*,
               std::optional<double> DecoderConfig::*>
      member;
  /// What llama.cpp takes where the key is missing; the file is refused where this is empty too.
  std::optional<double> absent = {};
  bool may_miss = false;  ///< a missing key, or 0, is a member that is empty
};

/// What is particular to an architecture of llama.cpp.
struct GgufArchitecture {
  const char* name;
  std::vector<GgufRow> rows;
  /// Of so many layers the last has no window; 0 where the architecture has no such order.
  int64_t pattern = 0;
  bool windows = false;     ///< llama.cpp computes windows
  bool any_biases = false;  ///< all linear layers may have biases
  bool partial_rotation = false;
  bool factors = false;  ///< RoPE's frequencies may be divided by tensors
  bool gelu = false;     ///< which llama.cpp computes by tanh
  enum { any, tied, separate } head = any;
  /// The number of layers of the model that divides scores by sqrt(D / H), not sqrt(head_dim).
  int64_t layers_of_largest = 0;
};
const std::vector<GgufArchitecture>& architectures();
/// Throws FileError naming the file `path` and listing the known ones.
const GgufArchitecture& architecture_of(const std::string& name, const std::string& path);

/// The key, a boolean, of a model whose GELU is exact. llama.cpp does not look at it.
inline constexpr const char* kExactGelu = "olm.gelu_exact";

/// A number of a file, which holds it in f32: the shortest decimal that gives the same f32, as
/// 1e-05 for 9.99999974738e-06.
double decimal_of(double value);

/// The configuration that a file's metadata and tensors describe. Throws FileError naming the key
/// of what would change numbers and is not known.
ReadConfig config_from_gguf(const GgufFile& file);

/// A tensor of a GGUF file that is no weight: what RoPE's frequencies are divided by.
struct RopeFactors {
  std::string name;
  std::vector<float> values;
};

/// How RoPE's frequencies are scaled, by keys and tensors. `config` is complete but for this.
RopeScalingOptions rope_scaling_from_gguf(const GgufFile& file, const std::string& architecture,
                                          const DecoderConfig& config);
/// The way back: sets keys, and gives the tensors that are needed. Throws Error for what
/// `architecture` has no place for.
std::vector<RopeFactors> rope_scaling_to_gguf(const DecoderConfig& config,
                                              const std::string& architecture, GgufWriter& to);
/// The keys that these two know, behind the architecture's name.
const std::vector<std::string>& rope_scaling_keys();

/// Sets the keys of a configuration, which is complete and of `family`. `width` is that of its
/// feed-forward layers. Throws Error naming the first option that llama.cpp's architecture of that
/// name cannot have.
std::vector<RopeFactors> config_to_gguf(const DecoderConfig& config, const Family& family,
                                        int64_t width, GgufWriter& to);

/// Values of keys as JSON {key: {type, value}}, so that they can be written again, and that.
Json values_to_json(const GgufFile& file, const std::vector<std::string>& keys);
void values_from_json(const Json& values, GgufWriter& to);

/// Throws FileError where a key that is not read says that numbers are computed in another way than
/// they are here.
void refuse_other_computation(const GgufFile& file, const std::string& architecture,
                              const std::vector<std::string>& unknown);

}  // namespace olm::nn::hub
