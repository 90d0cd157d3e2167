#include <olm/autograd/ops/gated.h>
#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>

namespace olm::nn {

namespace {
int64_t checked_hidden(const char* layer, const GatedFFNOptions& o) {
  const int64_t hidden = o.hidden_dim.value_or(int64_t(o.ff_multiplier * double(o.embed_dim)));
  require(o.embed_dim > 0 && hidden > 0, layer, ": wanted sizes above 0, got embed_dim ",
          o.embed_dim, " and hidden_dim ", hidden);
  checked_probability(layer, o.dropout);
  return hidden;
}
}  // namespace

GatedFFNBase::GatedFFNBase(const char* layer, const GatedFFNOptions& o)
    : Layer(o),
      up_proj(this, "up_proj", Linear(o.embed_dim, 2 * checked_hidden(layer, o), {.bias = o.bias})),
      down_proj(this, "down_proj",
                Linear(checked_hidden(layer, o), o.embed_dim, {.bias = o.bias})) {}

Tensor GatedFFNBase::forward(const Tensor& x, Context& ctx) {
  return dropout_if_training(down_proj(gated(up_proj(x, ctx)), ctx), options.dropout, ctx);
}

Tensor SwiGLUFFNModule::gated(const Tensor& x) const { return swiglu(x); }
Tensor GeGLUFFNModule::gated(const Tensor& x) const { return geglu(x); }
Tensor GeGLUTanhFFNModule::gated(const Tensor& x) const { return GeGLUTanh()(x); }

Ref<SwiGLUFFNModule> SwiGLUFFN(SwiGLUFFNOptions options) { return make<SwiGLUFFNModule>(options); }
Ref<SwiGLUFFNModule> SwiGLUFFN(int64_t embed_dim, SwiGLUFFNOptions options) {
  options.embed_dim = embed_dim;
  return SwiGLUFFN(options);
}

Ref<GeGLUFFNModule> GeGLUFFN(GeGLUFFNOptions options) { return make<GeGLUFFNModule>(options); }
Ref<GeGLUFFNModule> GeGLUFFN(int64_t embed_dim, GeGLUFFNOptions options) {
  options.embed_dim = embed_dim;
  return GeGLUFFN(options);
}

Ref<GeGLUTanhFFNModule> GeGLUTanhFFN(GatedFFNOptions options) {
  return make<GeGLUTanhFFNModule>(options);
}
Ref<GeGLUTanhFFNModule> GeGLUTanhFFN(int64_t embed_dim, GatedFFNOptions options) {
  options.embed_dim = embed_dim;
  return GeGLUTanhFFN(options);
}

}  // namespace olm::nn
