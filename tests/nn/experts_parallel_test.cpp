// Experts spread over ranks: the bits of the model that has them all.
#include <doctest/doctest.h>

#include <map>
#include <mutex>

#include <olm/engine/random.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/parallel.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/ranks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 11, kExperts = 8;
const std::string kMixture = "blocks.1.stack.0.blocks.1.block.blocks.1.";

struct Made {
  std::string name = {};
  bool gated = true, bias = true, recompute = false, skewed = false;
  DType dtype = f32;
  double dropout = 0;
  MoERoutingOptions routing = {};
  int64_t width = 16, hidden = 13, tokens = 9;
};

const MoERoutingOptions kBalanced{
    .load_balancing_coefficient = 0.1, .z_loss_coefficient = 0.01, .use_expert_bias = true};

const std::vector<Made> kMade{
    {.name = "gated", .dropout = 0.2, .routing = kBalanced},
    {.name = "gated, bf16", .bias = false, .recompute = true, .dtype = bf16, .dropout = 0.1},
    {.name = "classic", .gated = false, .recompute = true, .dropout = 0.3},
    {.name = "classic, bf16", .gated = false, .dtype = bf16, .routing = kBalanced},
    {.name = "skewed", .skewed = true, .dropout = 0.1},
    {.name = "wide", .width = 64, .hidden = 96, .tokens = 65},
};

Ref<Module> mixture(const Made& made) {
  if (made.gated)
    return SwiGLUMoEFFN({.embed_dim = made.width,
                         .num_experts = kExperts,
                         .num_shared_experts = 1,
                         .top_k = 2,
                         .hidden_dim = made.hidden,
                         .dropout = made.dropout,
                         .bias = made.bias,
                         .routing = made.routing});
  return ClassicMoEFFN({.embed_dim = made.width,
                        .num_experts = kExperts,
                        .top_k = 2,
                        .hidden_dim = made.hidden,
                        .dropout = made.dropout,
                        .bias = made.bias,
                        .routing = made.routing});
}

Ref<BlockModule> decoder(const Made& made) {
  const auto layer = [&] {
    return Block({Residual(Block({RMSNorm(made.width),
                                  FlashAttentionwithRoPE(made.width, 2, 80, {.causal = true})})),
                  Residual(Block({RMSNorm(made.width), mixture(made)}))});
  };
  auto model =
      Block({Embedding(kVocab, made.width), Repeat(layer, 2), OutputHead(made.width, kVocab)});
  init(model, {.seed = 7});
  model->for_each_parameter([&](const std::string& key, Parameter& p) {
    if (!made.skewed) return;  // else the first feature is large, and two experts like it
    std::vector<float> values = to_host<float>(p.tensor());
    const auto width = size_t(made.width);
    if (key.ends_with("embedding.weight"))
      for (size_t i = 0; i < values.size(); i += width) values[i] = 3;
    if (key.ends_with("gate.weight"))
      for (size_t e = 0; e < size_t(kExperts); ++e) values[e * width] = e < 2 ? 2.0F : -2.0F;
    p.assign(from_host(values, p.shape()));
  });
  if (made.recompute) set_recompute(*model, true);
  return model;
}

/// Bits of a tensor; empty where there is none.
std::string bits(const Tensor& t) {
  if (!t.defined()) return {};
  const Tensor c = raw::contiguous(t);
  return {static_cast<const char*>(c.data()), size_t(c.numel()) * size_of(c.dtype())};
}

/// What micro-batch i gave: its loss, gradients by key, choices of all routers.
struct Given {
  std::string loss = {};
  std::map<std::string, std::string> gradients = {};
  std::vector<std::string> offsets = {};
};

struct MicroBatch {
  MicroBatch(const Made& made, int64_t i) : rng(derive_seed(3, "dropout " + std::to_string(i))) {
    Generator ids(100 + uint64_t(i));
    inputs = randint(0, kVocab, {1, made.tokens + i % 3}, ids);
    targets = randint(0, kVocab, inputs.shape(), ids);
  }
  Tensor inputs, targets;
  Generator rng;
};

/// Forward and backward of micro-batch i, whose gradients stay in the leaves.
Given run(Module& model, const Made& made, int64_t i) {
  MicroBatch batch(made, i);
  Metrics metrics;
  Context ctx{.dtype = made.dtype, .rng = &batch.rng, .metrics = &metrics};
  const Tensor loss = model.loss(batch.inputs, batch.targets, ctx);
  backward(loss);
  Given given{.loss = bits(loss)};
  for (const RoutingRecord& record : metrics.routing) given.offsets.push_back(bits(record.offsets));
  for (const auto& [key, p] : model.named_parameters()) given.gradients[key] = bits(grad(p));
  return given;
}

std::vector<Given> references(const Made& made, int64_t micro_batches) {
  const auto model = decoder(made);
  std::vector<Given> all;
  for (int64_t i = 0; i < micro_batches; ++i) {
    all.push_back(run(*model, made, i));
    model->zero_grad();
  }
  return all;
}

bool is_expert(const std::string& key) { return key.find(".experts.") != std::string::npos; }

/// Runs `micro_batches` on ranks with experts over groups; what each micro-batch gave, an expert's
/// gradients from the leaf of the rank that ran it.
std::vector<Given> spread(const Made& made, int64_t micro_batches, int ranks, int64_t in_group) {
  std::vector<Given> all(static_cast<size_t>(micro_batches));
  std::mutex mutex;
  run_ranks(ranks, [&](const dist::Comm& world) {
    const auto model = decoder(made);
    const auto experts = spread_experts(*model, in_group, world);
    std::map<const TensorImpl*, std::string> key_of;
    for (const auto& [key, p] : model->named_parameters()) key_of[&p.impl()] = key;
    const int64_t each = micro_batches / ranks;
    const int64_t group_begin = (world.rank() - experts->group().rank()) * each;
    for (int64_t j = 0; j < each; ++j) {
      Given given = run(*model, made, world.rank() * each + j);
      std::lock_guard lock(mutex);
      Given& own = all[size_t(world.rank() * each + j)];
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

void check_same(const std::vector<Given>& got, const std::vector<Given>& wanted) {
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

Trained train(const Made& made, const dist::Comm& world, int64_t in_group,
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
    for (const Made& made : kMade) {
      const std::vector<Given> wanted = references(made, 4);
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
      const Made& made = kMade[m];
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
    const Made& made = kMade[4];
    const std::vector<Given> wanted = references(made, 2);
    size_t absent = 0;
    for (const auto& [key, gradient] : wanted[0].gradients) absent += gradient.empty();
    CHECK(absent == 2 * 6 * 4);  // of two layers, all parameters of experts 2 to 7
    CHECK(wanted[0].gradients.at(kMixture + "experts.0.up_proj.bias").size() ==
          4 * 2 * size_t(made.hidden));
  }

  TEST_CASE("a rank keeps its share of the experts, and the rest of the model whole") {
    run_ranks(4, [](const dist::Comm& world) {
      const auto model = decoder(kMade[0]);
      const int64_t parameters = model->num_parameters(), trained = model->num_parameters(true);
      int64_t of_experts = 0, kept = 0;
      const auto experts = spread_experts(*model, 4, world);
      model->for_each_parameter([&](const std::string& key, Parameter& p) {
        if (is_expert(key)) of_experts += p.shape().numel();
        if (is_expert(key) && p.tensor().device() == cpu) kept += p.shape().numel();
        CHECK((is_expert(key) || p.tensor().device() == cpu));
        CHECK(p.is_elsewhere() == (p.tensor().device() == meta));
      });
      CHECK(kept * 4 == of_experts);
      CHECK(experts->sources().size() == 4 * 2 * 2 * 4);
      for (const auto& source : experts->sources())  // no memory of their own
        CHECK(source.leaf.impl().storage == source.parameter.impl().storage);
      CHECK(model->num_parameters() == parameters);
      CHECK(model->num_parameters(true) == trained);
      CHECK(model->parameters().size() == decoder(kMade[0])->parameters().size());
      CHECK(device_of(*model) == cpu);
      const auto first = Block({model->get(kMixture + "experts.0"), Linear(2, 2)});
      init(*first->get("blocks.1"));
      CHECK(device_of(*first) == cpu);
      CHECK(summary(*model).find("(on another rank)") != std::string::npos);
    });
  }

  TEST_CASE("groups are neighbours, and replicas are one of each group") {
    run_ranks(6, [](const dist::Comm& world) {
      const auto model = decoder(kMade[0]);
      const auto experts = spread_experts(*model, 2, world);
      const int rank = world.rank(), in_group = rank % 2, group = rank / 2;
      const auto ranks = [&](const dist::Comm& comm) {
        return comm.all_gather(std::to_string(rank));
      };
      using Ranks = std::vector<std::string>;
      CHECK(ranks(experts->group()) ==
            Ranks{std::to_string(2 * group), std::to_string(2 * group + 1)});
      CHECK(ranks(experts->replicas()) == Ranks{std::to_string(in_group),
                                                std::to_string(in_group + 2),
                                                std::to_string(in_group + 4)});
      const auto whole = decoder(kMade[0]);
      CHECK(spread_experts(*whole, 1, world)->sources().empty());
      CHECK(whole->parameter(kMixture + "experts.7.up_proj.weight").tensor().device() == cpu);
    });
  }

  TEST_CASE("filling, loading, converting and moving pass by what another rank keeps") {
    TempFolder folder;
    const Made& made = kMade[2];
    const auto whole = decoder(made);
    save_weights(*whole, folder.path() + "/w.safetensors");
    run_ranks(2, [&](const dist::Comm& world) {
      const auto model = decoder(made);
      spread_experts(*model, 2, world);
      const auto check = [&](DType dtype) {
        for (const auto& [key, p] : model->named_parameters()) {
          CHECK(p.dtype() == dtype);
          if (p.device() == cpu)
            CHECK(bits(p) == bits(raw::cast(whole->parameter(key).tensor(), dtype)));
        }
        CHECK(model->parameter(kMixture + "experts.0.up_proj.weight").is_elsewhere() ==
              (world.rank() == 1));
      };
      init(*model, {.seed = 8});
      load_weights(*model, folder.path() + "/w.safetensors");
      check(f32);
      init(*model, {.seed = 7});
      check(f32);
      model->to(cpu);
      check(f32);
      check_error([&] { save_weights(*model, folder.path() + "/v"); },
                  {"save_weights", ".experts.", "another rank"});
      model->to(bf16);
      check(bf16);
      model->to(f32);
      load_weights(*model, folder.path() + "/w.safetensors");
      check(f32);
      run(*model, made, world.rank());  // leaves follow where parameters went
      for (const Tensor& leaf : model->leaves())
        CHECK((leaf.device() == meta || grad(leaf).defined() || leaf.dtype() == f32));
    });
  }

  TEST_CASE("what ranks generate together is what one generates") {
    const Made& made = kMade[0];
    const std::vector<int32_t> prompt{1, 2, 3};
    const GenerateOptions options{.tokens = 12, .seed = 5};
    const auto one = generate(*decoder(made), prompt, options);
    run_ranks(2, [&](const dist::Comm& world) {
      const auto model = decoder(made);
      spread_experts(*model, 2, world);
      CHECK(generate(*model, prompt, options) == one);
    });
  }

  TEST_CASE("what cannot be spread is refused") {
    const auto refused = [](Module& model, int64_t ranks, int world,
                            const std::vector<std::string>& parts) {
      run_ranks(world, [&](const dist::Comm& comm) {
        const auto own = unfilled_copy(model);
        init(*own);
        check_error([&] { spread_experts(*own, ranks, comm); }, parts);
      });
    };
    const auto with = [](Ref<Module> mixture) { return Block({Residual(std::move(mixture))}); };
    refused(*with(SwiGLUMoEFFN(8, {.num_experts = 6})), 4, 4,
            {"\"blocks.0.block\"", "6 experts", "4 ranks"});
    refused(*with(SwiGLUMoEFFN(8, {.num_experts = 6})), 3, 4, {"groups of 3", "4 ranks"});
    refused(*with(SwiGLUFFN(8)), 2, 2, {"no mixture"});
    refused(*with(ClassicMoEFFN(8, {.num_experts = 4, .activation = "prelu"})), 2, 2,
            {"\"blocks.0.block\"", "cannot be spread"});
    const auto custom = MoEFeedForward({.embed_dim = 8, .num_experts = 2, .top_k = 1},
                                       [] { return Block({SwiGLUFFN(8)}); });
    refused(*with(custom), 2, 2, {"\"blocks.0.block\"", "cannot be spread"});
    const auto tied = with(SwiGLUMoEFFN(8, {.num_experts = 4}));
    tied->parameter("blocks.0.block.experts.0.up_proj.weight") =
        tied->parameter("blocks.0.block.experts.3.up_proj.weight");
    run_ranks(2, [&](const dist::Comm& comm) {
      const auto model = with(ClassicMoEFFN(8, {.num_experts = 4, .activation_fn = PReLU()}));
      init(*model);
      check_error([&] { spread_experts(*model, 2, comm); }, {"without parameters"});
    });
    refused(*tied, 2, 2, {"experts.0.up_proj.weight", "tied"});
    run_ranks(2, [&](const dist::Comm& comm) {
      const auto model = with(SwiGLUMoEFFN(8, {.num_experts = 4}));
      init(*model);
      spread_experts(*model, 2, comm);
      check_error([&] { spread_experts(*model, 2, comm); }, {"blocks.0.block", "already"});
      model->freeze("blocks.0.block.experts.1");
      check_error([&] { model(zeros({3, 8})); }, {"some experts are frozen"});
    });
  }

  TEST_CASE("micro-batches that ranks of a group cannot share are refused") {
    run_ranks(4, [](const dist::Comm& world) {
      const auto model = decoder(kMade[0]);
      const auto experts = spread_experts(*model, 2, world);
      experts->check_micro_batches(8, true);
      experts->check_micro_batches(16, true);
      experts->check_micro_batches(12, false);
      check_error([&] { experts->check_micro_batches(12, true); },
                  {"12 micro-batches", "ranks 0 to 1", "[0, 4)", "fixed order"});
      check_error([&] { experts->check_micro_batches(5, false); }, {"5", "same number", "2 and 1"});
    });
  }
}
