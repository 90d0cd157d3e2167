#pragma once
// Descriptions: a model as JSON, layer by layer, by the names and options of the registry.
#include <cstdint>
#include <optional>
#include <string>

#include <olm/nn/module.h>

namespace olm::nn {

/// True where a description of `owner` holds this child: it is not what the options make.
OLM_API bool is_described(Module& owner, const ChildSlot& slot);

/// A model and everything below it as {"type", "options", "children"}, where children go by the
/// names of their slots ("blocks.0", "block"). Equal for equal architectures. Throws where a part
/// cannot describe itself.
OLM_API Json describe(Module& model);

struct BuildOptions {
  std::string where = "$";  ///< names the description in errors
  /// Ids of the tokenizer, for layers whose vocab_size is left out or "auto".
  std::optional<int64_t> vocab_size = {};
};

/// The model of a description, not filled. Beside what describe() makes, it reads the short form:
/// options and children are members of the layer itself, a list of children is an array, and a
/// Repeat of equal layers holds one of them and its number:
///   {"type": "Repeat", "num_repeat": 12, "stack": {"type": "Residual", "block":
///     {"type": "Block", "blocks": [{"type": "RMSNorm", "dim": 64}, …]}}}
/// An error names the layer by its path, such as $.blocks[1].stack.blocks[0], and lists the known
/// layers, options or keys. Nothing is allocated but what the modules themselves are: a description
/// of more than 100,000 layers, 64 levels or 10^15 parameters is refused.
OLM_API Ref<Module> build(const Json& description, const BuildOptions& options = {});
/// The short form of a description; build() makes the same model of it.
OLM_API Json shortened(const Json& description);

/// "$.blocks[1].block" of the module path "blocks.1.block".
OLM_API std::string json_path(const std::string& module_path, const std::string& root = "$");

}  // namespace olm::nn
