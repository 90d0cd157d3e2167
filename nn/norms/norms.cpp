#include <olm/nn/norms.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/norm.h>

namespace olm::nn {

namespace {
Shape checked_width(const char* layer, int64_t dim, double eps) {
  require(eps >= 0, layer, ": wanted eps of at least 0, got ", eps);
  require(dim > 0, layer, ": wanted a width above 0, got ", dim);
  return {dim};
}
}  // namespace

LayerNormModule::LayerNormModule(LayerNormOptions o) : Layer(o) {
  const Shape width = checked_width("LayerNorm", o.dim, o.eps);
  if (!o.elementwise_affine) return;
  gamma.emplace(this, "gamma", width, init::ones);
  beta.emplace(this, "beta", width, init::zeros);
}

Tensor LayerNormModule::forward(const Tensor& x, Context&) {
  require(x.rank() >= 1 && x.size(-1) == options.dim, "LayerNorm: wanted x [..., ", options.dim,
          "], got ", x.shape());
  return layer_norm(x, gamma_or_none(), beta_or_none(), options.eps);
}

ResidualStream LayerNormModule::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  if (!in.delta.defined()) return forward(in.x, ctx);
  const SumAndNorm both =
      add_layer_norm(in.x, in.delta, gamma_or_none(), beta_or_none(), options.eps);
  in = both.sum;
  return both.y;
}

Ref<LayerNormModule> LayerNorm(LayerNormOptions options) { return make<LayerNormModule>(options); }
Ref<LayerNormModule> LayerNorm(int64_t dim, LayerNormOptions options) {
  options.dim = dim;
  return LayerNorm(options);
}

RMSNormModule::RMSNormModule(RMSNormOptions o)
    : Layer(o),
      weight(this, "weight", checked_width("RMSNorm", o.dim, o.eps),
             o.plus_one ? init::zeros : init::ones) {}

/// What is not so goes without saying, as in descriptions from before it could be.
void RMSNormModule::visit_options(FieldVisitor& v) {
  if (!options.plus_one) v.skip("plus_one");
  options.fields(v);
  v.skip("");
}

Tensor RMSNormModule::scales() const {
  return options.plus_one ? weight.tensor() + 1.0 : weight.tensor();
}

Tensor RMSNormModule::forward(const Tensor& x, Context&) {
  return rms_norm(x, scales(), options.eps);
}

ResidualStream RMSNormModule::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  if (!in.delta.defined()) return forward(in.x, ctx);
  const SumAndNorm both = add_rms_norm(in.x, in.delta, scales(), options.eps);
  in = both.sum;
  return both.y;
}

Ref<RMSNormModule> RMSNorm(RMSNormOptions options) { return make<RMSNormModule>(options); }
Ref<RMSNormModule> RMSNorm(int64_t dim, double eps) { return RMSNorm({.dim = dim, .eps = eps}); }

}  // namespace olm::nn
