#pragma once
// What a model's tensors are called, and how they are laid out, in each form.
//
// A model is made of parts: matrices and vectors that mean something, such as q, gate or attn_norm
// of a layer. Each form stores parts under names of its own, alone or several in one tensor, one
// below the other: up_proj here is {up, gate}, gate_up_proj of Phi-3 is {gate, up}, c_attn of GPT-2
// is {q, k, v}, transposed. A tensor of one form is made from another's by taking parts out of one
// and putting them into the other, so that both directions, and all pairs of forms, are one table.
#include <string>
#include <vector>

#include <olm/nn/decoder.h>
#include <olm/nn/hub.h>

namespace olm::nn::hub {

/// How the parts of a module lie in its tensor.
enum class Layout : uint8_t {
  rows,        ///< [out, in], parts one below the other
  transposed,  ///< [in, out], parts side by side (weights alone)
  stacked,     ///< [E, out, in]: the part of each expert
};

/// A module of a form. `name` has {l} for the layer and {e} for the expert; its tensors are
/// name + ".weight" and, where the parts have biases, name + ".bias". `parts` are separated by
/// spaces; of the layer and expert of the name, all experts where it is stacked.
///
/// The parts: embed [V,D], positions [T,D], attn_norm, q [H·Dh,D], k, v [Hkv·Dh,D], o [D,H·Dh],
/// q_norm, k_norm, attn_post_norm, ffn_norm, gate, up [F,D], down [D,F], ffn_post_norm,
/// router [E,D], expert_gate, expert_up [Fe,D], expert_down [D,Fe], final_norm, head [V,D].
struct ModuleName {
  std::string name;
  std::string parts;
  Layout layout = Layout::rows;
  std::string weight = ".weight", bias = ".bias";  ///< ends of the tensors' names
};

/// The names of a form, and what else differs there.
struct Names {
  std::vector<ModuleName> modules = {};
  RopePairing pairing = RopePairing::halves;  ///< order of rotated rows of q, k, q_norm, k_norm
  double norm_offset = 0;  ///< what a norm's stored weight is above its scale: -1 for x · (1 + w)
  bool zero_biases = false;  ///< modules of layers and the last norm have biases, zeros if need be
  std::string prefix = {};   ///< of names, that some files leave out
  std::vector<std::string> ignored = {};  ///< ends of names of tensors that are no weights
};

/// The size of a head, and how many of its dimensions RoPE rotates.
int64_t head_dim_of(const DecoderConfig& config);
int64_t rotated_dims_of(const DecoderConfig& config);

/// What stands between spaces.
std::vector<std::string> words(const std::string& text);
bool ends_with_any(const std::string& name, const std::vector<std::string>& ends);

/// Those of this library, for a complete configuration: they follow from the tree of layers.
Names names_here(const DecoderConfig& config);

/// A family of other programs' models.
struct Family {
  const char* model_type;    ///< in config.json
  const char* architecture;  ///< architectures[0] there
  const char* ours;          ///< row of decoders() that it is read as
  const char* gguf;          ///< general.architecture; "" where llama.cpp has none
  Names hugging_face;
  Names gguf_names;
};
/// One row for each family; the first that can say what a model is, is what it is exported as.
const std::vector<Family>& families();
/// The row of a model_type; throws Error listing the known ones.
const Family& family_of(const std::string& model_type);

}  // namespace olm::nn::hub
