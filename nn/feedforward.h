#pragma once
// Position-wise feed-forward networks (FFNs). By name, with options in JSON: feed_forwards().
#include <optional>
#include <string>

#include <olm/nn/linear.h>
#include <olm/nn/registry.h>

namespace olm::nn {

struct ClassicFFNOptions {
  int64_t embed_dim = 0;                   ///< D, the width of x
  std::optional<int64_t> hidden_dim = {};  ///< 4 · embed_dim if empty
  std::string activation = "gelu";         ///< a name in activations(), not of a gated unit
  double dropout = 0;                      ///< probability, on the output
  bool bias = true;                        ///< in up_proj and down_proj
  Ref<Module> activation_fn = {};          ///< instead of `activation`: any module
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("hidden_dim", hidden_dim);
    v("activation", activation);
    v("dropout", dropout);
    v("bias", bias);
  }
};

/// y = dropout(down_proj(act(up_proj(x)))).
///   x: [..., embed_dim]    y: like x
/// Keys: up_proj.weight [hidden, D], down_proj.weight [D, hidden] and their biases; act.… where the
/// activation has parameters. Networks with the same activation_fn share its parameters. The
/// activation is a child that can be replaced; model.json then lists it as `act`. Throws for a
/// gated unit. Vaswani et al. 2017, arXiv:1706.03762.
class OLM_API ClassicFFNModule final : public Layer<ClassicFFNOptions> {
 public:
  explicit ClassicFFNModule(ClassicFFNOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "ClassicFFN"; }
  Child<LinearModule> up_proj;
  Child<> act;
  Child<LinearModule> down_proj;
};
OLM_API Ref<ClassicFFNModule> ClassicFFN(ClassicFFNOptions options);
OLM_API Ref<ClassicFFNModule> ClassicFFN(int64_t embed_dim, ClassicFFNOptions options = {});

struct GatedFFNOptions {
  int64_t embed_dim = 0;                   ///< D, the width of x
  std::optional<int64_t> hidden_dim = {};  ///< ff_multiplier · embed_dim, rounded down, if empty
  double dropout = 0;                      ///< probability, on the output
  bool bias = true;                        ///< in up_proj and down_proj
  double ff_multiplier = 2.5;              ///< hidden_dim over embed_dim; unused with hidden_dim
  std::string gated_unit = "swiglu";       ///< a name in activations() of a gated unit
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
    v("bias", bias);
    v("ff_multiplier", ff_multiplier, {.max = 1e6, .above = 0});
    v("gated_unit", gated_unit);
  }
};

/// A gated FFN: y = dropout(down_proj(value · act(gate))), where one GEMM with up_proj gives value
/// and gate.
///   x: [..., embed_dim]    y: like x
/// Keys: up_proj.weight [2 · hidden, D], rows of value then of gate; down_proj.weight [D, hidden];
/// their biases; act.… where the unit has parameters. The unit is a child that can be replaced.
/// With swiglu or geglu the layer is called SwiGLUFFN or GeGLUFFN in model.json. Throws for an
/// activation that is no gated unit. Shazeer 2020, arXiv:2002.05202.
class OLM_API GatedFFNModule final : public Layer<GatedFFNOptions> {
 public:
  explicit GatedFFNModule(GatedFFNOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override;
  void visit_options(FieldVisitor& v) override;
  Child<LinearModule> up_proj;
  Child<> act;
  Child<LinearModule> down_proj;
};
OLM_API Ref<GatedFFNModule> GatedFFN(GatedFFNOptions options);
OLM_API Ref<GatedFFNModule> GatedFFN(int64_t embed_dim, GatedFFNOptions options = {});

// GatedFFN with a fixed gated_unit.
using SwiGLUFFNOptions = GatedFFNOptions;
using GeGLUFFNOptions = GatedFFNOptions;
/// The FFN of Llama and PaLM: value · silu(gate).
OLM_API Ref<GatedFFNModule> SwiGLUFFN(SwiGLUFFNOptions options);
OLM_API Ref<GatedFFNModule> SwiGLUFFN(int64_t embed_dim, SwiGLUFFNOptions options = {});
/// The FFN of Gemma: value · gelu(gate), with exact GELU.
OLM_API Ref<GatedFFNModule> GeGLUFFN(GeGLUFFNOptions options);
OLM_API Ref<GatedFFNModule> GeGLUFFN(int64_t embed_dim, GeGLUFFNOptions options = {});
/// The entry of layers() for a name that means GatedFFN with one unit.
OLM_API LayerMaker gated_ffn_maker(std::string layer, std::string gated_unit);

}  // namespace olm::nn
