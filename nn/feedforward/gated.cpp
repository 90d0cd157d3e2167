#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/feedforward/hidden_internal.h>

namespace olm::nn {

namespace {

std::string layer_of(const std::string& unit) {
  if (unit == "swiglu") return "SwiGLUFFN";
  if (unit == "geglu") return "GeGLUFFN";
  return "GatedFFN";
}

int64_t checked_hidden(const GatedFFNOptions& o) {
  const std::string layer = layer_of(o.gated_unit);
  checked_probability(layer.c_str(), o.dropout);
  return hidden_width(layer.c_str(), o.embed_dim, o.hidden_dim, o.ff_multiplier);
}

Ref<GatedFFNModule> with_unit(GatedFFNOptions options, const char* unit) {
  options.gated_unit = unit;
  return GatedFFN(std::move(options));
}

}  // namespace

GatedFFNModule::GatedFFNModule(GatedFFNOptions o)
    : Layer(o),
      up_proj(this, "up_proj", Linear(o.embed_dim, 2 * checked_hidden(o), {.bias = o.bias})),
      act(this, "act", activations().get(o.gated_unit)()),
      down_proj(this, "down_proj", Linear(checked_hidden(o), o.embed_dim, {.bias = o.bias})) {
  const auto* unit = dynamic_cast<const ActivationBase*>(act.module().get());
  require(!unit || unit->gated(), "GatedFFN: wanted a gated unit, which halves the width, ",
          act->type_name(), " is none; ClassicFFN takes it");
}

Tensor GatedFFNModule::forward(const Tensor& x, Context& ctx) {
  const Tensor h = act(up_proj(x, ctx), ctx);
  return dropout_if_training(down_proj(h, ctx), options.dropout, ctx);
}

std::string GatedFFNModule::type_name() const { return layer_of(options.gated_unit); }

void GatedFFNModule::visit_options(FieldVisitor& v) {
  if (type_name() != "GatedFFN") v.skip("gated_unit");
  options.fields(v);
  v.skip("");
}

Ref<GatedFFNModule> GatedFFN(GatedFFNOptions options) {
  return make<GatedFFNModule>(std::move(options));
}
Ref<GatedFFNModule> GatedFFN(int64_t embed_dim, GatedFFNOptions options) {
  options.embed_dim = embed_dim;
  return GatedFFN(std::move(options));
}

Ref<GatedFFNModule> SwiGLUFFN(SwiGLUFFNOptions options) {
  return with_unit(std::move(options), "swiglu");
}
Ref<GatedFFNModule> SwiGLUFFN(int64_t embed_dim, SwiGLUFFNOptions options) {
  options.embed_dim = embed_dim;
  return SwiGLUFFN(std::move(options));
}

Ref<GatedFFNModule> GeGLUFFN(GeGLUFFNOptions options) {
  return with_unit(std::move(options), "geglu");
}
Ref<GatedFFNModule> GeGLUFFN(int64_t embed_dim, GeGLUFFNOptions options) {
  options.embed_dim = embed_dim;
  return GeGLUFFN(std::move(options));
}

LayerMaker gated_ffn_maker(std::string layer, std::string gated_unit) {
  return [layer = std::move(layer), gated_unit = std::move(gated_unit)](
             const Json& json, DescribedChildren) -> Ref<Module> {
    GatedFFNOptions options;
    JsonReader reader(json, layer);
    reader.skip("gated_unit");
    options.fields(reader);
    reader.require_all_used();
    options.gated_unit = gated_unit;
    return GatedFFN(std::move(options));
  };
}

}  // namespace olm::nn
