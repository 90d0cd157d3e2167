// Where keys of OpenLanguageModel's state dicts differ from those of this library.
#include <string_view>

#include <olm/nn/decoder.h>

namespace olm::nn {

namespace {

/// What stands for a part of a key: one that begins with a dot is inside, another is its beginning.
struct Renamed {
  const char* families;  ///< in which it is so, between spaces
  const char *theirs, *ours;
};

constexpr const char* kSandwich = " gemma2 gemma3 ";
constexpr const char* kPostNorm = " olmo3 ";
constexpr const char* kPreNorm = " deepseek_v3 ";
constexpr const char* kStackLast = " gemma3 deepseek_v3 ";  // registered behind the other blocks

constexpr Renamed kTable[] = {
    {" lm ", ".blocks.0.blocks.", ".blocks."},  // TransformerBlock's parts are a Block of their own
    {" opt ", "token_embedding.", ""},          // the embedding and the head once more
    {" opt ", "lm_head.", ""},
    {kStackLast, "blocks.1.", "blocks.2."},
    {kStackLast, "blocks.2.", "blocks.3."},
    {kStackLast, "transformer_blocks.", "blocks.1.stack."},
    {kSandwich, ".input_layernorm.", ".blocks.0.block.blocks.0."},
    {kSandwich, ".self_attn.", ".blocks.0.block.blocks.1."},
    {kSandwich, ".post_attention_layernorm.", ".blocks.0.block.blocks.2."},
    {kSandwich, ".pre_feedforward_layernorm.", ".blocks.1.block.blocks.0."},
    {kSandwich, ".mlp.", ".blocks.1.block.blocks.1."},
    {kSandwich, ".post_feedforward_layernorm.", ".blocks.1.block.blocks.2."},
    {kPostNorm, ".self_attn.", ".blocks.0.block.blocks.0."},
    {kPostNorm, ".post_attention_layernorm.", ".blocks.0.block.blocks.1."},
    {kPostNorm, ".mlp.", ".blocks.1.block.blocks.0."},
    {kPostNorm, ".post_feedforward_layernorm.", ".blocks.1.block.blocks.1."},
    {kPreNorm, ".attn_norm.", ".blocks.0.block.blocks.0."},
    {kPreNorm, ".self_attn.", ".blocks.0.block.blocks.1."},
    {kPreNorm, ".ffn_norm.", ".blocks.1.block.blocks.0."},
    {kPreNorm, ".ffn.", ".blocks.1.block.blocks.1."},
};

/// Where `row` has something to say of `key`; npos where it has not.
size_t place_of(const Renamed& row, const std::string& key) {
  const size_t at = key.find(row.theirs);
  return row.theirs[0] == '.' || at == 0 ? at : std::string::npos;
}

}  // namespace

std::string key_from_olm(const std::string& family, const std::string& key) {
  std::string result = key;
  bool begun = false;  // a beginning is renamed once, though what is there then may be another's
  for (const Renamed& row : kTable) {
    const bool begins = row.theirs[0] != '.';
    if (begins && begun) continue;
    if (std::string_view(row.families).find(" " + family + " ") == std::string::npos) continue;
    const size_t at = place_of(row, result);
    if (at == std::string::npos) continue;
    if (*row.ours == '\0') return "";
    result.replace(at, std::string_view(row.theirs).size(), row.ours);
    begun = begun || begins;
  }
  return result;
}

std::map<std::string, Tensor> keys_from_olm(const std::string& family,
                                            const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, Tensor> result;
  for (const auto& [key, tensor] : tensors)
    if (const std::string ours = key_from_olm(family, key); !ours.empty()) result[ours] = tensor;
  return result;
}

}  // namespace olm::nn
