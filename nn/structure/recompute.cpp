#include <olm/autograd/recompute.h>
#include <olm/nn/structure.h>

namespace olm::nn {

Ref<RecomputeModule> Recompute(Ref<Module> block) {
  return make<RecomputeModule>(std::move(block));
}

Tensor RecomputeModule::forward(const Tensor& x, Context& ctx) {
  return recomputed(block.module(), x, ctx);
}

Tensor recomputed(Ref<Module> module, const Tensor& x, Context& ctx) {
  if (!grad_enabled() || ctx.cache) return module->forward(x, ctx);
  // Each run starts from the same random state; the first one's end state is the caller's.
  const Generator start = ctx.rng ? *ctx.rng : Generator();
  const size_t losses_before = ctx.aux_losses.size();
  const auto run_block = [&ctx, start, losses_before, module, copy = ctx,
                          first = true](const Tensors& in) mutable {
    Generator rng = start;
    Context inner = copy;
    inner.rng = copy.rng ? &rng : nullptr;
    if (!first) inner.metrics = nullptr;
    Tensors results{module->forward(in[0], inner)};
    for (size_t i = losses_before; i < inner.aux_losses.size(); ++i)
      results.push_back(inner.aux_losses[i]);
    if (first && ctx.rng) *ctx.rng = rng;
    first = false;
    return results;
  };
  const Tensors results = recompute(run_block, {x}, module->leaves());
  ctx.aux_losses.insert(ctx.aux_losses.end(), results.begin() + 1, results.end());
  return results[0];
}

}  // namespace olm::nn
