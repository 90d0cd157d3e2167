// Training on ranks: the bits of one process, in parameters, moments and what steps report.
#include <doctest/doctest.h>

#include <cmath>
#include <mutex>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/random.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/parallel.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 1100, kWidth = 32, kMicroBatches = 8;
constexpr double kTiny = 1e-4;  // MiB of a bucket smaller than most parameters

/// What is trained, and how.
struct Made {
  std::string name = {};
  bool experts = false;
  DType parameters = f32, activations = f32;
  DataParallelOptions parallel = {.micro_batches = kMicroBatches};
  StepOptions how = {};
  bool frozen = false;
};

Ref<Module> make_model(const Made& made, uint64_t seed) {
  const auto layer = [&]() -> Ref<Module> {
    const auto ffn = [&]() -> Ref<Module> {
      if (made.experts)
        return SwiGLUMoEFFN({.embed_dim = kWidth,
                             .num_experts = 16,
                             .top_k = 1,
                             .hidden_dim = 8,
                             .dropout = 0.1,
                             .routing = {.load_balancing_coefficient = 0.1}});
      return SwiGLUFFN(kWidth, {.hidden_dim = 48, .dropout = 0.1});
    };
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

/// The loss of a micro-batch, from its number alone.
struct Loss {
  Tensor loss = {};
  Tensors aux = {};
  int64_t targets = 0;
};
Loss loss_of(Module& model, const Made& made, int64_t number) {
  Generator ids(100 + uint64_t(number));
  Generator rng(derive_seed(3, "dropout " + std::to_string(number)));
  const Tensor inputs = randint(0, kVocab, {1, 5 + number % 3}, ids);
  const Tensor targets = randint(0, kVocab, inputs.shape(), ids);
  Context ctx{.dtype = made.activations, .rng = &rng};
  Loss result{.loss = model.loss(inputs, targets, ctx), .targets = count_targets(targets)};
  result.aux = ctx.aux_losses;
  return result;
}

std::string bits(const Tensor& t) {
  const Tensor c = raw::contiguous(t);
  return {static_cast<const char*>(c.data()), size_t(c.numel()) * size_of(c.dtype())};
}

/// What a run leaves: values by name, and the reports of its steps.
struct Result {
  std::map<std::string, Tensor> state = {};
  std::vector<StepInfo> steps = {};
  std::vector<int64_t> targets = {};
};

/// Puts a rank's part of moments into whole ones.
void add_state(std::map<std::string, Tensor>& state, const Optimizer& optimizer) {
  for (const TensorLayout& layout : optimizer.state_layout())
    if (!state.count(layout.name))
      state[layout.name] = full(layout.shape, 77, {.dtype = layout.dtype});
  for (const TensorPiece& piece : optimizer.state_pieces()) {
    const Tensor& t = state.at(piece.name);
    raw::copy_(
        raw::slice(raw::view(t, {t.numel()}), 0, piece.begin, piece.begin + piece.data.numel()),
        piece.data);
  }
}

void run_step(DataParallel& parallel, Module& model, const Made& made, int64_t step) {
  for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
    const Loss l = loss_of(model, made, step * made.parallel.micro_batches + i);
    parallel.backward(l.loss, l.targets, l.aux);
  }
}

/// Trains on so many ranks; `watch` is called on each after a step.
using Watch = std::function<void(DataParallel&, int64_t step)>;
Result train(const Made& made, int ranks, int64_t steps = 3, const Watch& watch = {}) {
  Result result;
  std::mutex mutex;
  run_ranks(ranks, [&](const dist::Comm& world) {
    // All begin with the values of rank 0.
    const auto model = make_model(made, world.rank() == 0 ? 7 : 8);
    AdamW optimizer(decay_groups(model->parameters(), 0.1), {.lr = 1e-2, .clip_norm = 0.5});
    DataParallelOptions options = made.parallel;
    options.order = model->parameters();
    DataParallel parallel(optimizer, options, world);
    std::vector<StepInfo> infos;
    std::vector<int64_t> targets;
    for (int64_t step = 0; step < steps; ++step) {
      run_step(parallel, *model, made, step);
      infos.push_back(parallel.step(made.how));
      targets.push_back(parallel.targets());
      if (watch) watch(parallel, step);
    }
    std::lock_guard lock(mutex);
    add_state(result.state, optimizer);
    for (const auto& [key, p] : model->named_parameters()) {
      if (!result.state.count(key)) result.state[key] = raw::clone(p);
      CHECK(bits(result.state[key]) == bits(p));
    }
    if (result.steps.empty()) result.steps = infos, result.targets = targets;
    for (size_t i = 0; i < infos.size(); ++i) {
      CHECK(infos[i].loss == result.steps[i].loss);
      CHECK(infos[i].grad_norm == result.steps[i].grad_norm);
      CHECK(infos[i].skipped == result.steps[i].skipped);
      CHECK(infos[i].first_bad == result.steps[i].first_bad);
      CHECK(targets[i] == result.targets[i]);
    }
  });
  return result;
}

void check_same(const Result& got, const Result& wanted) {
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

[[maybe_unused]] void check_near(const Result& got, const Result& wanted, double tolerance) {
  for (const auto& [name, tensor] : wanted.state) {
    CAPTURE(name);
    REQUIRE(got.state.count(name) == 1);
    if (!is_float(tensor.dtype()) || name.find("exp_avg") == 0) continue;
    const auto a = to_host<double>(got.state.at(name)), b = to_host<double>(tensor);
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    CHECK(worst < tolerance);
  }
}

}  // namespace

TEST_SUITE("nn/parallel") {
  TEST_CASE("any number of ranks has the bits of one") {
    for (Made made : std::vector<Made>{{.name = "dense"},
                                       {.name = "bf16 activations", .activations = bf16},
                                       {.name = "bf16", .parameters = bf16, .activations = bf16},
                                       {.name = "experts", .experts = true}}) {
      CAPTURE(made.name);
      const Result one = train(made, 1);
      CHECK(one.steps[2].grad_norm > 0.5);
      for (const auto& [ranks, zero, bucket_mb] : std::vector<std::tuple<int, int, double>>{
               {2, 1, 25}, {2, 0, 25}, {3, 1, 0.05}, {4, 1, kTiny}, {4, 0, kTiny}, {8, 1, 0.05}}) {
        CAPTURE(ranks);
        CAPTURE(zero);
        CAPTURE(bucket_mb);
        made.parallel.zero = zero;
        made.parallel.bucket_mb = bucket_mb;
        check_same(train(made, ranks), one);
      }
    }
  }
}
