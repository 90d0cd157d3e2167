#pragma once
// Linear and Dropout: what most layers are made of.
#include <optional>

#include <olm/autograd/ops/dropout.h>
#include <olm/nn/module.h>

namespace olm::nn {

struct LinearLayerOptions {
  int64_t in_features = 0, out_features = 0;
  bool bias = true;
  void fields(auto& v) {
    v("in_features", in_features);
    v("out_features", out_features);
    v("bias", bias);
  }
};

/// An affine map of the last dimension: y = x · Wᵀ + b.
///   x: [..., in_features]    y: [..., out_features], x's dtype
/// Keys: weight [out, in], bias [out]; both start uniform within 1/sqrt(in). Throws where x's last
/// size is another.
class OLM_API LinearModule final : public Layer<LinearLayerOptions> {
 public:
  explicit LinearModule(LinearLayerOptions o);
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "Linear"; }
  /// The bias, or an undefined tensor.
  Tensor bias_or_none() const { return bias ? bias->tensor() : Tensor(); }
  Parameter weight;
  std::optional<Parameter> bias;
};
OLM_API Ref<LinearModule> Linear(LinearLayerOptions options);
OLM_API Ref<LinearModule> Linear(int64_t in_features, int64_t out_features,
                                 LinearLayerOptions options = {});

struct DropoutOptions {
  double p = 0;
  void fields(auto& v) { v("p", p); }
};

/// Sets elements to 0 with probability p and divides the others by 1 - p, while training (where
/// ctx.rng is set); else y = x.
///   x: [...]    y: like x
/// Throws where p is outside [0, 1]. Srivastava et al. 2014.
class OLM_API DropoutModule final : public Layer<DropoutOptions> {
 public:
  explicit DropoutModule(DropoutOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "Dropout"; }
};
OLM_API Ref<DropoutModule> Dropout(DropoutOptions options);
OLM_API Ref<DropoutModule> Dropout(double p);

/// dropout(x) with the randomness of ctx; x itself without any.
inline Tensor dropout_if_training(const Tensor& x, double p, Context& ctx) {
  return ctx.rng && p > 0 ? dropout(x, p, *ctx.rng) : x;
}
/// Throws naming `layer` where p is no probability.
inline double checked_probability(const char* layer, double p) {
  require(p >= 0 && p <= 1, layer, ": wanted a dropout from 0 to 1, got ", p);
  return p;
}

}  // namespace olm::nn
