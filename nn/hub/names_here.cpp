// What this library calls the parts of a decoder.
#include <olm/nn/hub/names_internal.h>

namespace olm::nn::hub {

namespace {

using Modules = std::vector<ModuleName>;

/// Where the blocks of a decoder are; see DecoderModel().
struct Places {
  std::string embed, positions, layers, final_norm, head;
};

Places places(const DecoderConfig& c) {
  const bool rope = *c.positions == "rope", joint = *c.joint_embedding && !rope;
  const int repeat = rope || joint ? 1 : 3;  // else a Dropout comes after the positions
  const bool norm_in_head = *c.norm_in_head;
  const std::string head = "blocks." + std::to_string(repeat + (norm_in_head ? 1 : 2));
  return {.embed = joint ? "blocks.0.blocks.0.embedding" : "blocks.0.embedding",
          .positions = joint ? "blocks.0.blocks.1.pos_embedding" : "blocks.1.pos_embedding",
          .layers = "blocks." + std::to_string(repeat) + ".stack.{l}.blocks.",
          .final_norm = norm_in_head ? head + ".blocks.0" : "blocks." + std::to_string(repeat + 1),
          .head = head + ".blocks.1"};
}

ModuleName norm(const DecoderConfig& c, const std::string& name, const std::string& part) {
  ModuleName result{.name = name, .parts = part};
  if (*c.norm == "layer_norm") {
    result.weight = ".gamma";
    result.bias = ".beta";
  }
  return result;
}

/// The residual part number `at` of a layer: its norms, and where the module between them is.
std::string add_norms(const DecoderConfig& c, const std::string& layer, int at,
                      const std::string& what, Modules& modules) {
  const std::string parts = layer + std::to_string(at) + ".block.blocks.";
  const int between = *c.pre_norm ? 1 : 0;
  if (*c.pre_norm) modules.push_back(norm(c, parts + "0", what + "_norm"));
  if (*c.post_norm)
    modules.push_back(norm(c, parts + std::to_string(between + 1), what + "_post_norm"));
  return parts + std::to_string(between) + ".";
}

void add_layer(const DecoderConfig& c, const std::string& layer, Modules& modules) {
  const std::string attention = add_norms(c, layer, 0, "attn", modules);
  for (const char* part : {"q", "k", "v", "out"})
    modules.push_back({attention + part + "_proj", part == std::string("out") ? "o" : part});
  for (const char* part : {"q_norm", "k_norm"}) modules.push_back({attention + part, part});
  const std::string ffn = add_norms(c, layer, 1, "ffn", modules);
  const bool gated = *c.activation == "swiglu" || *c.activation == "geglu";
  modules.push_back({ffn + "up_proj", gated ? "up gate" : "up"});
  modules.push_back({ffn + "down_proj", "down"});
  modules.push_back({ffn + "router.gate", "router"});
  modules.push_back({ffn + "experts.{e}.up_proj", "expert_up expert_gate"});
  modules.push_back({ffn + "experts.{e}.down_proj", "expert_down"});
}

}  // namespace

Names names_here(const DecoderConfig& c) {
  const Places at = places(c);
  Names names{.pairing = rope_pairing(*c.rope_pairing),
              .norm_offset = *c.norm_plus_one ? -1.0 : 0.0};
  names.modules = {{at.embed, "embed"}, {at.positions, "positions"}};
  add_layer(c, at.layers, names.modules);
  names.modules.push_back(norm(c, at.final_norm, "final_norm"));
  names.modules.push_back({at.head, "head"});
  return names;
}

}  // namespace olm::nn::hub
