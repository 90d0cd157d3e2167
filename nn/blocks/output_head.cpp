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

Tensor OutputHeadModule::forward(const Tensor& x, Context& ctx) {
  return capped(BlockModule::forward(x, ctx));
}

ResidualStream OutputHeadModule::forward_residual(ResidualStream& in, Context& ctx,
                                                  FusedCall call) {
  return capped(BlockModule::forward_residual(in, ctx, call).total());
}

Tensor OutputHeadModule::loss(ResidualStream in, const Tensor& targets, Context& ctx,
                              const CrossEntropyOptions& loss_options) {
  const auto* head =
      blocks.size() == 2 ? dynamic_cast<const LinearModule*>(blocks.at(1).get()) : nullptr;
  if (!head) return Module::loss(std::move(in), targets, ctx, loss_options);
  const Ref<Module> norm = blocks.at(0);
  const Tensor x = norm(in, ctx).total();
  const Tensor loss = linear_cross_entropy(
      x, head->weight, targets,
      {.bias = head->bias_or_none(), .softcap = options.softcap.value_or(0), .loss = loss_options});
  return with_aux_losses(loss, targets, ctx, loss_options);
}

Ref<OutputHeadModule> OutputHead(OutputHeadOptions options) {
  return make<OutputHeadModule>(options);
}

Ref<OutputHeadModule> OutputHead(int64_t embed_dim, int64_t vocab_size, OutputHeadOptions options) {
  options.embed_dim = embed_dim;
  options.vocab_size = vocab_size;
  return OutputHead(std::move(options));
}

}  // namespace olm::nn
