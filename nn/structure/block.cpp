#include <olm/nn/structure.h>

namespace olm::nn {
namespace {

/// `in` through the first `count` children. A module may put another in its own place while it
/// runs, so that each is held meanwhile.
ResidualStream run_in_order(Children& children, size_t count, ResidualStream& in, Context& ctx) {
  if (count == 0) return in;
  const Ref<Module> first = children.at(0);
  ResidualStream stream = first(in, ctx);
  for (size_t i = 1; i < count; ++i) {
    const Ref<Module> child = children.at(i);
    stream = child(stream, ctx);
  }
  return stream;
}

ResidualStream run_stack(RepeatModule& repeat, ResidualStream& in, Context& ctx) {
  Children& stack = repeat.stack;
  if (!repeat.recompute) return run_in_order(stack, stack.size(), in, ctx);
  Tensor x = in.total();
  for (size_t i = 0; i < stack.size(); ++i) x = recomputed(stack.at(i), x, ctx);
  return x;
}

/// in + block(in), left to be added.
ResidualStream run_residual(Child<>& block, ResidualStream& in, Context& ctx) {
  const Tensor delta = block(in, ctx).total();
  return {in.total(), delta};
}

}  // namespace

Ref<BlockModule> Block(std::vector<Ref<Module>> blocks) {
  return make<BlockModule>(std::move(blocks));
}

Tensor BlockModule::forward(const Tensor& x, Context& ctx) {
  ResidualStream in = x;
  return run_in_order(blocks, blocks.size(), in, ctx).total();
}

ResidualStream BlockModule::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  return run_in_order(blocks, blocks.size(), in, ctx);
}

Tensor BlockModule::loss(ResidualStream in, const Tensor& targets, Context& ctx,
                         const CrossEntropyOptions& options) {
  if (blocks.size() == 0 || !computes_as<BlockModule>())
    return Module::loss(std::move(in), targets, ctx, options);
  const size_t last = blocks.size() - 1;
  const ResidualStream stream = run_in_order(blocks, last, in, ctx);
  const Ref<Module> head = blocks.at(last);
  return head->loss(stream, targets, ctx, options);
}

Ref<ResidualModule> Residual(Ref<Module> block) { return make<ResidualModule>(std::move(block)); }

Tensor ResidualModule::forward(const Tensor& x, Context& ctx) {
  ResidualStream in = x;
  return run_residual(block, in, ctx).total();
}

ResidualStream ResidualModule::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  return run_residual(block, in, ctx);
}

Ref<RepeatModule> make_repeat(const std::function<Ref<Module>()>& factory, int64_t num_repeat) {
  require(num_repeat >= 0, "Repeat: wanted num_repeat of at least 0, got ", num_repeat);
  std::vector<Ref<Module>> stack;
  for (int64_t i = 0; i < num_repeat; ++i) stack.push_back(factory());
  return make<RepeatModule>(std::move(stack));
}

Tensor RepeatModule::forward(const Tensor& x, Context& ctx) {
  ResidualStream in = x;
  return run_stack(*this, in, ctx).total();
}

ResidualStream RepeatModule::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  return run_stack(*this, in, ctx);
}

int64_t set_recompute(Module& model, bool recompute) {
  int64_t count = 0;
  if (auto* repeat = dynamic_cast<RepeatModule*>(&model)) {
    repeat->recompute = recompute;
    count += recompute;
    recompute = false;
  }
  for (const auto& [name, slot] : model.children())
    count += set_recompute(*slot->module(), recompute);
  return count;
}

}  // namespace olm::nn
