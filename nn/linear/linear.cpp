#include <olm/nn/linear.h>

#include <olm/autograd/ops/linear.h>

namespace olm::nn {

LinearModule::LinearModule(LinearLayerOptions o)
    : Layer(o),
      weight(this, "weight", {o.out_features, o.in_features}, init::fan_in(o.in_features)) {
  require(o.in_features > 0 && o.out_features > 0, "Linear: wanted sizes above 0, got in_features ",
          o.in_features, " and out_features ", o.out_features);
  if (o.bias) bias.emplace(this, "bias", Shape{o.out_features}, init::fan_in(o.in_features));
}

Tensor LinearModule::forward(const Tensor& x, Context&) {
  return linear(x, weight, bias_or_none());
}

Ref<LinearModule> Linear(LinearLayerOptions options) { return make<LinearModule>(options); }
Ref<LinearModule> Linear(int64_t in_features, int64_t out_features, LinearLayerOptions options) {
  options.in_features = in_features;
  options.out_features = out_features;
  return Linear(options);
}

DropoutModule::DropoutModule(DropoutOptions o) : Layer(o) { checked_probability("Dropout", o.p); }

Tensor DropoutModule::forward(const Tensor& x, Context& ctx) {
  return dropout_if_training(x, options.p, ctx);
}

Ref<DropoutModule> Dropout(DropoutOptions options) { return make<DropoutModule>(options); }
Ref<DropoutModule> Dropout(double p) { return Dropout({.p = p}); }

}  // namespace olm::nn
