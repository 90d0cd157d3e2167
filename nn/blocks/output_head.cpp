#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/linear_cross_entropy.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/nn/activations.h>
#include <olm/nn/blocks.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>

namespace olm::nn {

namespace {

Ref<Module> default_norm(const OutputHeadOptions& o) {
  require(o.embed_dim > 0 && o.vocab_size > 0, "OutputHead: wanted sizes above 0, got embed_dim ",
          o.embed_dim, " and vocab_size ", o.vocab_size);
  require(!o.softcap || *o.softcap > 0, "OutputHead: wanted a softcap above 0, got ",
          o.softcap.value_or(0));
  if (!o.use_norm && !o.norm) return Identity();
  return LayerNorm(o.embed_dim);
}

Ref<Module> projection(const OutputHeadOptions& o) {
  const Ref<LinearModule> linear = Linear(o.embed_dim, o.vocab_size, {.bias = o.bias});
  if (!o.tied_embedding) return linear;
  const Parameter& table = o.tied_embedding->weight;
  require(table.shape() == linear->weight.shape(), "OutputHead: tied_embedding has weight ",
          table.shape(), ", wanted ", linear->weight.shape());
  linear->weight = table;
  if (linear->bias) linear->bias->set_rule(init::zeros);
  return linear;
}

}  // namespace

OutputHeadModule::OutputHeadModule(const OutputHeadOptions& o)
    : BlockModule({default_norm(o), projection(o)}), options(o) {
  if (o.norm) blocks.replace(0, o.norm);
  options.norm = {};
  options.tied_embedding = {};
}

Tensor OutputHeadModule::capped(const Tensor& logits) const {
  if (!options.softcap) return logits;
  return tanh(logits * (1 / *options.softcap)) * *options.softcap;
}

Sum OutputHeadModule::forward_sum(const Sum& in, Context& ctx) {
  return {.x = capped(BlockModule::forward_sum(in, ctx).total()), .delta = {}};
}

Tensor OutputHeadModule::forward_with_total(const Sum& in, Tensor& total, Context& ctx) {
  return capped(BlockModule::forward_with_total(in, total, ctx));
}

Tensor OutputHeadModule::loss_sum(const Sum& in, const Tensor& targets, Context& ctx) {
  const auto* head = dynamic_cast<const LinearModule*>(blocks.at(1).get());
  if (!head) return Module::loss(in.total(), targets, ctx);
  const Tensor x = blocks.at(0)->forward_sum(in, ctx).total();
  Tensor loss =
      linear_cross_entropy(x, head->weight, targets,
                           {.bias = head->bias_or_none(), .softcap = options.softcap.value_or(0)});
  for (const Tensor& aux : ctx.aux_losses) loss = loss + aux;
  return loss;
}

Ref<OutputHeadModule> OutputHead(int64_t embed_dim, int64_t vocab_size, OutputHeadOptions options) {
  options.embed_dim = embed_dim;
  options.vocab_size = vocab_size;
  return make<OutputHeadModule>(options);
}

}  // namespace olm::nn
