#pragma once
// Position-wise feed-forward networks.
#include <optional>
#include <string>

#include <olm/nn/linear.h>

namespace olm::nn {

struct ClassicFFNOptions {
  int64_t embed_dim = 0;
  std::optional<int64_t> hidden_dim = {};  ///< 4 · embed_dim where empty
  std::string activation = "gelu";         ///< a name of activations()
  double dropout = 0;
  bool bias = true;
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
/// activation has parameters. The activation is a child and can be replaced. Vaswani et al. 2017.
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
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
    v("bias", bias);
    v("ff_multiplier", ff_multiplier);
  }
};

/// Base of the gated networks: y = dropout(down_proj(value · act(gate))), where up_proj gives value
/// and gate in one product. Derive and write gated().
///   x: [..., embed_dim]    y: like x
/// Keys: up_proj.weight [2 · hidden, D], rows of value then of gate; down_proj.weight [D, hidden];
/// their biases. Shazeer 2020, arXiv:2002.05202.
class OLM_API GatedFFNBase : public Layer<GatedFFNOptions> {
 public:
  GatedFFNBase(const char* layer, const GatedFFNOptions& o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  Child<LinearModule> up_proj, down_proj;

 protected:
  /// [..., 2 · hidden] to [..., hidden].
  virtual Tensor gated(const Tensor& x) const = 0;
};

using SwiGLUFFNOptions = GatedFFNOptions;
/// The gated network of Llama and PaLM: value · silu(gate).
class OLM_API SwiGLUFFNModule final : public GatedFFNBase {
 public:
  explicit SwiGLUFFNModule(const SwiGLUFFNOptions& o) : GatedFFNBase("SwiGLUFFN", o) {}
  std::string type_name() const override { return "SwiGLUFFN"; }

 protected:
  Tensor gated(const Tensor& x) const override;
};
OLM_API Ref<SwiGLUFFNModule> SwiGLUFFN(SwiGLUFFNOptions options);
OLM_API Ref<SwiGLUFFNModule> SwiGLUFFN(int64_t embed_dim, SwiGLUFFNOptions options = {});

using GeGLUFFNOptions = GatedFFNOptions;
/// The gated network of Gemma: value · gelu(gate), exact.
class OLM_API GeGLUFFNModule final : public GatedFFNBase {
 public:
  explicit GeGLUFFNModule(const GeGLUFFNOptions& o) : GatedFFNBase("GeGLUFFN", o) {}
  std::string type_name() const override { return "GeGLUFFN"; }

 protected:
  Tensor gated(const Tensor& x) const override;
};
OLM_API Ref<GeGLUFFNModule> GeGLUFFN(GeGLUFFNOptions options);
OLM_API Ref<GeGLUFFNModule> GeGLUFFN(int64_t embed_dim, GeGLUFFNOptions options = {});

/// The same with GELU by tanh, as Gemma's published weights want it.
class OLM_API GeGLUTanhFFNModule final : public GatedFFNBase {
 public:
  explicit GeGLUTanhFFNModule(const GatedFFNOptions& o) : GatedFFNBase("GeGLUTanhFFN", o) {}
  std::string type_name() const override { return "GeGLUTanhFFN"; }

 protected:
  Tensor gated(const Tensor& x) const override;
};
OLM_API Ref<GeGLUTanhFFNModule> GeGLUTanhFFN(GatedFFNOptions options);
OLM_API Ref<GeGLUTanhFFNModule> GeGLUTanhFFN(int64_t embed_dim, GatedFFNOptions options = {});

}  // namespace olm::nn
