#include <olm/nn/structure.h>

namespace olm::nn {
namespace {

/// `in` through children [begin, end).
Sum fold(Children& children, size_t begin, size_t end, Sum in, Context& ctx) {
  for (size_t i = begin; i < end; ++i) in = children.at(i)->forward_sum(in, ctx);
  return in;
}

}  // namespace

Ref<BlockModule> Block(std::vector<Ref<Module>> blocks) {
  return make<BlockModule>(std::move(blocks));
}

Sum BlockModule::forward_sum(const Sum& in, Context& ctx) {
  return fold(blocks, 0, blocks.size(), in, ctx);
}

Tensor BlockModule::forward(const Tensor& x, Context& ctx) {
  return forward_sum({.x = x, .delta = {}}, ctx).total();
}

Tensor BlockModule::forward_with_total(const Sum& in, Tensor& total, Context& ctx) {
  if (blocks.size() == 0) return total = in.total();
  const Tensor first = blocks.at(0)->forward_with_total(in, total, ctx);
  return fold(blocks, 1, blocks.size(), {.x = first, .delta = {}}, ctx).total();
}

Tensor BlockModule::loss_sum(const Sum& in, const Tensor& targets, Context& ctx) {
  if (blocks.size() == 0) return Module::loss(in.total(), targets, ctx);
  const size_t last = blocks.size() - 1;
  return blocks.at(last)->loss_sum(fold(blocks, 0, last, in, ctx), targets, ctx);
}

Tensor BlockModule::loss(const Tensor& x, const Tensor& targets, Context& ctx) {
  return loss_sum({.x = x, .delta = {}}, targets, ctx);
}

Ref<ResidualModule> Residual(Ref<Module> block) { return make<ResidualModule>(std::move(block)); }

Sum ResidualModule::forward_sum(const Sum& in, Context& ctx) {
  Tensor total;
  const Tensor delta = block.module()->forward_with_total(in, total, ctx);
  return {.x = total, .delta = delta};
}

Tensor ResidualModule::forward(const Tensor& x, Context& ctx) {
  return forward_sum({.x = x, .delta = {}}, ctx).total();
}

Ref<RepeatModule> make_repeat(const std::function<Ref<Module>()>& factory, int64_t num_repeat) {
  require(num_repeat >= 0, "Repeat: wanted num_repeat of at least 0, got ", num_repeat);
  std::vector<Ref<Module>> stack;
  for (int64_t i = 0; i < num_repeat; ++i) stack.push_back(factory());
  return make<RepeatModule>(std::move(stack));
}

Sum RepeatModule::forward_sum(const Sum& in, Context& ctx) {
  if (recompute) {
    Tensor x = in.total();
    for (size_t i = 0; i < stack.size(); ++i) x = recomputed(stack.at(i), x, ctx);
    return {.x = x, .delta = {}};
  }
  return fold(stack, 0, stack.size(), in, ctx);
}

Tensor RepeatModule::forward(const Tensor& x, Context& ctx) {
  return forward_sum({.x = x, .delta = {}}, ctx).total();
}

}  // namespace olm::nn
