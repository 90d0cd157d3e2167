#pragma once
// Descriptions: a model as JSON, each layer by its name in the registry and its options.
#include <cstdint>
#include <optional>
#include <string>

#include <olm/nn/module.h>

namespace olm::nn {

/// True where a description of `owner` must list this child, since the options do not imply it.
OLM_API bool is_described(Module& owner, const ChildSlot& slot);

/// A model and everything below it as {"type", "options", "children"}; children are named by their
/// slots ("blocks.0", "block"). Equal architectures have equal descriptions. Throws where a layer
/// cannot be described, as a Parallel with a lambda for its merge.
OLM_API Json describe(Module& model);

struct BuildOptions {
  std::string where = "$";  ///< path of the description in errors
  /// Size of the tokenizer's vocabulary, for layers whose vocab_size is left out or "auto".
  std::optional<int64_t> vocab_size = {};
};

/// Builds the model of a description; its parameters are not filled. It reads what describe()
/// writes and a short form, where options and children are members of the layer itself, a list of
/// children is an array, and a Repeat of equal layers has one of them and their number:
///   {"type": "Repeat", "num_repeat": 12, "stack": {"type": "Residual", "block":
///     {"type": "Block", "blocks": [{"type": "RMSNorm", "dim": 64}, …]}}}
/// An error names the layer by its path, such as $.blocks[1].stack.blocks[0], and lists the known
/// layers, options or keys. No memory is allocated for parameters. A description of more than
/// 100,000 layers, 64 levels or 10^15 parameters is refused.
OLM_API Ref<Module> build(const Json& description, const BuildOptions& options = {});
/// The short form of a description, from which build() makes the same model.
OLM_API Json shortened(const Json& description);

/// The JSON path of a module path: "$.blocks[1].block" for "blocks.1.block".
OLM_API std::string json_path(const std::string& module_path, const std::string& root = "$");

}  // namespace olm::nn
