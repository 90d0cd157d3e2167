#include <olm/autograd/ops/linear.h>
#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/feedforward/hidden_internal.h>
#include <olm/nn/registry.h>

namespace olm::nn {

namespace {
int64_t checked_hidden(const ClassicFFNOptions& o) {
  checked_probability("ClassicFFN", o.dropout);
  return hidden_width("ClassicFFN", o.embed_dim, o.hidden_dim, 4);
}
}  // namespace

ClassicFFNModule::ClassicFFNModule(ClassicFFNOptions o)
    : Layer(o),
      up_proj(this, "up_proj", Linear(o.embed_dim, checked_hidden(o), {.bias = o.bias})),
      act(this, "act", activations().get(o.activation)()),
      down_proj(this, "down_proj", Linear(checked_hidden(o), o.embed_dim, {.bias = o.bias})) {
  if (o.activation_fn) act.replace(o.activation_fn);
  options.activation_fn = {};
  const auto* activation = dynamic_cast<const ActivationBase*>(act.module().get());
  require(!activation || !activation->gated(), "ClassicFFN: wanted an activation that keeps the ",
          "width, ", act->type_name(), " halves it; GatedFFN takes it");
}

Tensor ClassicFFNModule::forward(const Tensor& x, Context& ctx) {
  const auto* activation = dynamic_cast<const ActivationBase*>(act.module().get());
  const Activation fused = activation ? activation->fused() : Activation::none;
  Tensor h;
  if (const LinearModule* up = up_proj.typed(); up && fused != Activation::none)
    h = linear(x, up->weight, up->bias_or_none(), {.activation = fused});
  else
    h = act(up_proj(x, ctx), ctx);
  return dropout_if_training(down_proj(h, ctx), options.dropout, ctx);
}

Ref<ClassicFFNModule> ClassicFFN(ClassicFFNOptions options) {
  return make<ClassicFFNModule>(options);
}
Ref<ClassicFFNModule> ClassicFFN(int64_t embed_dim, ClassicFFNOptions options) {
  options.embed_dim = embed_dim;
  return ClassicFFN(options);
}

}  // namespace olm::nn
