#pragma once
// Position-wise feed-forward networks. By name, from options in JSON: feed_forwards().
#include <optional>
#include <string>

#include <olm/nn/linear.h>
#include <olm/nn/registry.h>

namespace olm::nn {

struct ClassicFFNOptions {
  int64_t embed_dim = 0;
  std::optional<int64_t> hidden_dim = {};  ///< 4 · embed_dim where empty
  std::string activation = "gelu";         ///< a name of activations() that is no gated unit
  double dropout = 0;
  bool bias = true;
  Ref<Module> activation_fn = {};  ///< in place of `activation`: one with options, or of your own
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
/// activation has parameters, which an activation_fn given to several networks shares among them.
/// The activation is a child and can be replaced; in model.json it is a child `act` then. Throws
/// for a gated unit. Vaswani et al. 2017, arXiv:1706.03762.
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
  int64_t embed_dim = 0;
  std::optional<int64_t> hidden_dim = {};  ///< ff_multiplier · embed_dim rounded down where empty
  double dropout = 0;
  bool bias = true;
  double ff_multiplier = 2.5;
  std::string gated_unit = "swiglu";  ///< a name of activations() that is a gated unit
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
    v("bias", bias);
    v("ff_multiplier", ff_multiplier, {.max = 1e6, .above = 0});
    v("gated_unit", gated_unit);
  }
};

/// The gated networks: y = dropout(down_proj(value · act(gate))), where up_proj gives value and
/// gate in one product.
///   x: [..., embed_dim]    y: like x
/// Keys: up_proj.weight [2 · hidden, D], rows of value then of gate; down_proj.weight [D, hidden];
/// their biases; act.… where the unit has parameters. The unit is a child and can be replaced. With
/// swiglu and geglu the layer's name is SwiGLUFFN and GeGLUFFN. Throws for an activation that is no
/// gated unit. Shazeer 2020, arXiv:2002.05202.
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

/// GatedFFN of a unit, which is no option then.
using SwiGLUFFNOptions = GatedFFNOptions;
using GeGLUFFNOptions = GatedFFNOptions;
/// The gated network of Llama and PaLM: value · silu(gate).
OLM_API Ref<GatedFFNModule> SwiGLUFFN(SwiGLUFFNOptions options);
OLM_API Ref<GatedFFNModule> SwiGLUFFN(int64_t embed_dim, SwiGLUFFNOptions options = {});
/// The gated network of Gemma: value · gelu(gate), exact.
OLM_API Ref<GatedFFNModule> GeGLUFFN(GeGLUFFNOptions options);
OLM_API Ref<GatedFFNModule> GeGLUFFN(int64_t embed_dim, GeGLUFFNOptions options = {});
/// The maker that layers() wants for a layer's name that stands for GatedFFN of one unit.
OLM_API LayerMaker gated_ffn_maker(std::string layer, std::string gated_unit);

}  // namespace olm::nn
