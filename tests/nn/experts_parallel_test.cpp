// Experts spread over ranks: the bits of the model that has them all.
#include <doctest/doctest.h>

#include <mutex>

#include <olm/nn/expert_parallel.h>
#include <olm/nn/generate.h>
#include <olm/nn/parallel.h>
#include <tests/support/checks.h>
#include <tests/support/moe_decoder.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// Runs `micro_batches` on ranks with experts over groups; what each micro-batch gave, an expert's
/// gradients from the leaf of the rank that ran it.
std::vector<MicroBatchResult> spread(const MadeDecoder& made, int64_t micro_batches, int ranks,
                                     int64_t in_group) {
  std::vector<MicroBatchResult> all(static_cast<size_t>(micro_batches));
  std::mutex mutex;
  run_ranks(ranks, [&](const dist::Comm& world) {
    const auto model = decoder(made);
    const auto experts = spread_experts(*model, in_group, world);
    std::map<const TensorImpl*, std::string> key_of;
    for (const auto& [key, p] : model->named_parameters()) key_of[&p.impl()] = key;
    const int64_t each = micro_batches / ranks;
    const int64_t group_begin = (world.rank() - experts->group().rank()) * each;
    for (int64_t j = 0; j < each; ++j) {
      MicroBatchResult given = run_micro_batch(*model, made, world.rank() * each + j);
      std::lock_guard lock(mutex);
      MicroBatchResult& own = all[size_t(world.rank() * each + j)];
      own.loss = given.loss;
      own.offsets = given.offsets;
      for (const auto& [key, gradient] : given.gradients)
        if (!is_expert(key)) own.gradients[key] = gradient;
      for (const auto& source : experts->sources())
        all[size_t(group_begin + source.rank * each + j)]
            .gradients[key_of.at(&source.parameter.impl())] = bits(grad(source.leaf));
      model->zero_grad();
    }
  });
  return all;
}

void check_same(const std::vector<MicroBatchResult>& got,
                const std::vector<MicroBatchResult>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].loss == wanted[i].loss);
    CHECK(got[i].offsets == wanted[i].offsets);
    CHECK(got[i].gradients.size() == wanted[i].gradients.size());
    for (const auto& [key, gradient] : wanted[i].gradients) {
      CAPTURE(key);
      const auto found = got[i].gradients.find(key);
      CHECK((found != got[i].gradients.end() && found->second == gradient));
    }
  }
}

/// What of a model is on a rank, by key, after a training.
struct Trained {
  std::map<std::string, std::string> tensors = {};
  std::vector<std::string> steps = {};
  int64_t elements = 0;  // of parameters here
  ParallelCost cost = {};
};

/// Updates expert biases by the choices in all micro-batches, whose offsets ranks gave as notes.
void balance(Module& model, const std::vector<std::string>& notes,
             const std::vector<RoutingRecord>& records) {
  constexpr size_t kBytes = (kExperts + 1) * sizeof(int32_t);
  std::string all;
  for (const std::string& note : notes) all += note;
  Metrics metrics;
  for (size_t i = 0; i * kBytes < all.size(); ++i) {
    std::vector<int32_t> offsets(kExperts + 1);
    all.copy(reinterpret_cast<char*>(offsets.data()), kBytes, i * kBytes);
    metrics.routing.push_back({.router = records[i % 2].router,  // of two layers
                               .offsets = from_host(offsets, {kExperts + 1})});
  }
  update_expert_biases(model, metrics);
}

Trained train(const MadeDecoder& made, const dist::Comm& world, int64_t in_group,
              DataParallelOptions options) {
  const auto model = decoder(made);
  const auto experts = spread_experts(*model, in_group, world);
  AdamW optimizer(model->parameters(), {.lr = 1e-2, .clip_norm = 0.5});
  options.order = model->parameters();
  DataParallel parallel(optimizer, options, world, experts);
  Trained trained;
  for (int64_t step = 0; step < 3; ++step) {
    std::string note;
    Metrics metrics;
    for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
      const size_t seen = metrics.routing.size();
      const MicroBatch batch(made, step * options.micro_batches + i);
      Generator rng = batch.rng;
      Context ctx{.dtype = made.dtype, .rng = &rng, .metrics = &metrics};
      const Tensor loss = model->loss(batch.inputs, batch.targets, ctx);
      parallel.backward(loss, batch.targets.numel(), ctx.aux_losses);
      for (size_t r = seen; r < metrics.routing.size(); ++r)
        note += bits(metrics.routing[r].offsets);
    }
    const StepInfo info = parallel.step({}, note);
    if (made.routing.use_expert_bias) balance(*model, parallel.notes(), metrics.routing);
    trained.steps.push_back(
        bits(from_host<double>({info.loss, info.aux_loss, info.grad_norm}, {3})));
  }
  for (const auto& [key, tensor] : model->state_dict()) {
    if (tensor.device() == meta) continue;
    trained.tensors[key] = bits(tensor);
    if (!key.ends_with("expert_bias")) trained.elements += tensor.numel();
  }
  trained.cost = parallel.cost();
  return trained;
}

}  // namespace

TEST_SUITE("nn/experts_parallel") {
  TEST_CASE("losses and gradients of each micro-batch are those of one rank") {
    for (const MadeDecoder& made : kDecoders) {
      const std::vector<MicroBatchResult> wanted = references(made, 4);
      for (const auto& [ranks, in_group] : {std::pair{2, 2}, {4, 4}, {4, 2}}) {
        CAPTURE(made.name);
        CAPTURE(ranks);
        CAPTURE(in_group);
        check_same(spread(made, 4, ranks, in_group), wanted);
      }
    }
  }

  TEST_CASE("weights after some steps are those of one rank, and what they take is shared out") {
    struct Split {
      int ranks;
      int64_t in_group, zero;
    };
    for (const size_t m : {0, 1, 4}) {
      const MadeDecoder& made = kDecoders[m];
      const Trained one = train(made, dist::Comm(), 1, {.micro_batches = 8});
      for (const Split& s : {Split{2, 2, 1}, {4, 4, 1}, {4, 2, 1}, {4, 2, 0}}) {
        CAPTURE(made.name);
        CAPTURE(s.ranks);
        CAPTURE(s.in_group);
        CAPTURE(s.zero);
        std::vector<Trained> ranks(static_cast<size_t>(s.ranks));
        run_ranks(s.ranks, [&](const dist::Comm& world) {
          ranks[size_t(world.rank())] = train(
              made, world, s.in_group, {.micro_batches = 8, .zero = s.zero, .bucket_mb = 0.004});
        });
        std::map<std::string, std::string> all;
        size_t moments = 0;
        bool same = true;
        for (const Trained& t : ranks) {
          CHECK(t.steps == one.steps);
          for (const auto& [key, values] : t.tensors) same &= values == one.tensors.at(key);
          all.insert(t.tensors.begin(), t.tensors.end());
          moments += t.cost.moment_bytes;
          CHECK(t.elements == ranks[0].elements);
        }
        CHECK(same);
        CHECK(all == one.tensors);
        if (s.zero == 1) CHECK(moments == one.cost.moment_bytes);
        if (s.zero == 0) CHECK(moments == size_t(s.ranks) * 8 * size_t(ranks[0].elements));
      }
    }
  }

  TEST_CASE("idle experts give no gradient, and ranks without rows go along") {
    const MadeDecoder& made = kDecoders[4];
    const std::vector<MicroBatchResult> wanted = references(made, 2);
    size_t absent = 0;
    for (const auto& [key, gradient] : wanted[0].gradients) absent += gradient.empty();
    CHECK(absent == 2 * 6 * 4);  // of two layers, all parameters of experts 2 to 7
    CHECK(wanted[0].gradients.at(kFirstMixture + "experts.0.up_proj.bias").size() ==
          4 * 2 * size_t(made.hidden));
  }

  TEST_CASE("what ranks generate together is what one generates") {
    const MadeDecoder& made = kDecoders[0];
    const std::vector<int32_t> prompt{1, 2, 3};
    const GenerateOptions options{.tokens = 12, .seed = 5};
    const auto one = generate(*decoder(made), prompt, options);
    run_ranks(2, [&](const dist::Comm& world) {
      const auto model = decoder(made);
      spread_experts(*model, 2, world);
      CHECK(generate(*model, prompt, options) == one);
    });
  }
}
