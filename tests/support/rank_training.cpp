#include "tests/support/rank_training.h"

#include <doctest/doctest.h>

#include <cmath>
#include <mutex>

#include <olm/autograd/tape.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/structure.h>
#include <tests/support/ranks.h>

namespace olm::test {

using namespace nn;

namespace {

constexpr int64_t kVocab = 1100, kWidth = 32;  // the embedding has two blocks of a norm

std::string bits(const Tensor& t) {
  const Tensor c = raw::contiguous(raw::to(t, cpu));
  return {static_cast<const char*>(c.data()), size_t(c.numel()) * size_of(c.dtype())};
}

/// Puts a rank's part of moments into whole ones.
void add_state(std::map<std::string, Tensor>& state, const Optimizer& optimizer) {
  for (const TensorLayout& layout : optimizer.state_layout())
    if (!state.count(layout.name))
      state[layout.name] = full(layout.shape, 77, {.dtype = layout.dtype});
  for (const TensorPiece& piece : optimizer.state_pieces()) {
    const Tensor& t = state.at(piece.name);
    raw::copy_(
        raw::slice(raw::view(t, {t.numel()}), 0, piece.begin, piece.begin + piece.data.numel()),
        raw::to(piece.data, cpu));
  }
}

/// Adds what one rank has to a result; what others had must be the same.
void add_result(RankResult& result, Module& model, const Optimizer& optimizer,
                const std::vector<StepInfo>& steps, const std::vector<int64_t>& targets) {
  add_state(result.state, optimizer);
  for (const auto& [key, p] : model.named_parameters()) {
    if (p.device() == meta) continue;
    if (!result.state.count(key)) result.state[key] = raw::clone(raw::to(p, cpu));
    CHECK(bits(result.state[key]) == bits(p));
  }
  if (result.steps.empty()) result.steps = steps, result.targets = targets;
  for (size_t i = 0; i < steps.size(); ++i) {
    const StepInfo &a = steps[i], &b = result.steps[i];
    CHECK(bits(from_host<double>({a.loss, a.aux_loss, a.grad_norm}, {3})) ==
          bits(from_host<double>({b.loss, b.aux_loss, b.grad_norm}, {3})));
    CHECK(a.skipped == b.skipped);
    CHECK(a.first_bad == b.first_bad);
    CHECK(targets[i] == result.targets[i]);
  }
}

}  // namespace

Ref<Module> make_rank_model(const RankTraining& made, uint64_t seed) {
  const auto ffn = [&]() -> Ref<Module> {
    if (made.experts)
      return SwiGLUMoEFFN({.embed_dim = kWidth,
                           .num_experts = 16,
                           .top_k = 1,
                           .hidden_dim = 8,
                           .dropout = 0.1,
                           .routing = {.load_balancing_coefficient = 0.1}});
    return SwiGLUFFN({.embed_dim = kWidth, .hidden_dim = 48, .dropout = 0.1});
  };
  const auto layer = [&] {
    return Block({Residual(Block(
                      {RMSNorm(kWidth), FlashAttentionwithRoPE(kWidth, 2, 16, {.causal = true})})),
                  Residual(Block({RMSNorm(kWidth), ffn()}))});
  };
  auto model = Block({Embedding(kVocab, kWidth), Repeat(layer, 2), OutputHead(kWidth, kVocab)});
  model->parameter("blocks.2.blocks.1.weight") = model->parameter("blocks.0.embedding.weight");
  init(model, {.seed = seed});
  if (made.frozen) model->freeze("blocks.1.stack.0");
  model->to(made.parameters);
  return model;
}

std::unique_ptr<Optimizer> make_rank_optimizer(const RankTraining& made, Module& model) {
  if (made.muon)
    return std::make_unique<Muon>(muon_groups(model, 0.1),
                                  MuonOptions{.lr = 1e-2, .clip_norm = 0.5});
  return std::make_unique<AdamW>(decay_groups(model.parameters(), 0.1),
                                 AdamWOptions{.lr = 1e-2, .clip_norm = 0.5});
}

Tensor with_gradient(const Tensor& loss, const Tensor& p, double extra) {
  return record("extra gradient", raw::clone(loss), {loss, p},
                [extra, shape = p.shape(), options = options_of(p)](const Tensor& dy, Sinks) {
                  return Grads{dy, full(shape, extra, options)};
                });
}

Tensor chain_of(const Tensors& parameters, double gradient) {
  Tensor loss = zeros({});
  for (const Tensor& p : parameters) loss = with_gradient(loss, p, gradient);
  return loss;
}

Tensors make_leaves(int64_t n, const Shape& shape) {
  Tensors leaves;
  for (int64_t i = 0; i < n; ++i) {
    leaves.push_back(zeros(shape));
    set_requires_grad(leaves.back());
  }
  return leaves;
}

RankLoss rank_loss(Module& model, const RankTraining& made, int64_t number) {
  Generator ids(100 + uint64_t(number));
  Generator rng(derive_seed(3, "dropout " + std::to_string(number)));
  const Tensor inputs = randint(0, kVocab, {1, 5 + number % 3}, ids);
  Tensor targets = randint(0, kVocab, inputs.shape(), ids);
  if (made.gaps && (number < 4 || (number >= 8 && number < 16)))
    targets = full(inputs.shape(), -100, options_of(targets));
  Context ctx{.dtype = made.activations, .rng = &rng};
  const Device device = model.parameters()[0].device();
  RankLoss result{.loss = model.loss(raw::to(inputs, device), raw::to(targets, device), ctx),
                  .targets = count_targets(targets)};
  result.aux = ctx.aux_losses;
  if (number == made.bad_micro_batch)
    result.loss = with_gradient(result.loss, model.parameters()[size_t(made.bad_parameter)], NAN);
  return result;
}

void run_micro_batches(DataParallel& parallel, Module& model, const RankTraining& made,
                       int64_t step) {
  for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
    const RankLoss l = rank_loss(model, made, step * made.parallel.micro_batches + i);
    parallel.backward(l.loss, l.targets, l.aux);
  }
}

RankResult train_on_ranks(const RankTraining& made, int ranks, int64_t steps, const Watch& watch) {
  RankResult result;
  std::mutex mutex;
  run_ranks(
      ranks,
      [&](const dist::Comm& world) {
        // All begin with the values of rank 0; experts are spread where they are alike.
        const auto model = make_rank_model(made, world.rank() == 0 || made.spread > 1 ? 7 : 8);
        if (made.on_cards) model->to(cuda(world.rank()));
        const auto experts = made.spread > 1 ? spread_experts(*model, made.spread, world) : nullptr;
        const auto owned = make_rank_optimizer(made, *model);
        Optimizer& optimizer = *owned;
        DataParallelOptions options = made.parallel;
        options.order = model->parameters();
        DataParallel parallel(optimizer, options, world, experts);
        std::vector<StepInfo> infos;
        std::vector<int64_t> targets;
        for (int64_t step = 0; step < steps; ++step) {
          run_micro_batches(parallel, *model, made, step);
          infos.push_back(parallel.step(made.how));
          targets.push_back(parallel.targets());
          if (watch) watch(parallel, step);
        }
        std::lock_guard lock(mutex);
        add_result(result, *model, optimizer, infos, targets);
      },
      {.delay_us = 0});
  return result;
}

void check_same(const RankResult& got, const RankResult& wanted) {
  CHECK(got.state.size() == wanted.state.size());
  for (const auto& [name, tensor] : wanted.state) {
    CAPTURE(name);
    REQUIRE(got.state.count(name) == 1);
    CHECK(bits(got.state.at(name)) == bits(tensor));
  }
  for (size_t i = 0; i < wanted.steps.size(); ++i) {
    CHECK(got.steps[i].loss == wanted.steps[i].loss);
    CHECK(got.steps[i].aux_loss == wanted.steps[i].aux_loss);
    CHECK(got.steps[i].grad_norm == wanted.steps[i].grad_norm);
    CHECK(got.steps[i].skipped == wanted.steps[i].skipped);
    CHECK(got.targets[i] == wanted.targets[i]);
  }
}

void check_near(const RankResult& got, const RankResult& wanted, double tolerance) {
  for (const auto& [name, tensor] : wanted.state) {
    if (!name.starts_with("blocks")) continue;
    CAPTURE(name);
    REQUIRE(got.state.count(name) == 1);
    const auto a = to_host<double>(got.state.at(name)), b = to_host<double>(tensor);
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    CHECK(worst < tolerance);
  }
}

}  // namespace olm::test
