#pragma once
// Normalisation of each token's vector, computed in f32.
#include <optional>

#include <olm/nn/module.h>

namespace olm::nn {

struct LayerNormOptions {
  int64_t dim = 0;
  double eps = 1e-5;
  bool elementwise_affine = true;
  void fields(auto& v) {
    v("dim", dim);
    v("eps", eps);
    v("elementwise_affine", elementwise_affine);
  }
};

/// y = (x - mean(x)) / sqrt(var(x) + eps) · gamma + beta over the last axis, with the biased
/// variance. See layer_norm().
///   x: [..., dim]    y: like x
/// Keys: gamma, beta [dim], starting at 1 and 0; none without `elementwise_affine`. Ba, Kiros &
/// Hinton 2016, arXiv:1607.06450.
class OLM_API LayerNormModule final : public Layer<LayerNormOptions> {
 public:
  explicit LayerNormModule(LayerNormOptions o);
  Tensor forward(const Tensor& x, Context&) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override;
  std::string type_name() const override { return "LayerNorm"; }
  /// The parameters, or undefined tensors without `elementwise_affine`.
  Tensor gamma_or_none() const { return gamma ? gamma->tensor() : Tensor(); }
  Tensor beta_or_none() const { return beta ? beta->tensor() : Tensor(); }
  std::optional<Parameter> gamma, beta;
};
OLM_API Ref<LayerNormModule> LayerNorm(LayerNormOptions options);
OLM_API Ref<LayerNormModule> LayerNorm(int64_t dim, LayerNormOptions options = {});

struct RMSNormOptions {
  int64_t dim = 0;
  double eps = 1e-5;
  bool plus_one = false;  ///< multiplies by 1 + weight, which starts at 0
  void fields(auto& v) {
    v("dim", dim);
    v("eps", eps);
    v("plus_one", plus_one);
  }
};

/// y = x / sqrt(mean(x²) + eps) · weight over the last axis. See rms_norm().
///   x: [..., dim]    y: like x
/// Key: weight [dim], starting at 1. With `plus_one`, as in Gemma, decay draws scales to 1. Zhang &
/// Sennrich 2019, arXiv:1910.07467.
class OLM_API RMSNormModule final : public Layer<RMSNormOptions> {
 public:
  explicit RMSNormModule(RMSNormOptions o);
  Tensor forward(const Tensor& x, Context&) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override;
  std::string type_name() const override { return "RMSNorm"; }
  void visit_options(FieldVisitor& v) override;
  Parameter weight;

 private:
  Tensor scales() const;
};
OLM_API Ref<RMSNormModule> RMSNorm(RMSNormOptions options);
OLM_API Ref<RMSNormModule> RMSNorm(int64_t dim, double eps = 1e-5);

}  // namespace olm::nn
