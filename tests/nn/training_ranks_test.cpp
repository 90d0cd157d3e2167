// Training on several ranks, which are threads here: the bits of one, and ends that all share.
#include <doctest/doctest.h>

#include <atomic>

#include <olm/engine/file.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/models.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/training.h>

#include "tests/support/checks.h"
#include "tests/support/ranks.h"
#include "tests/support/small_tokens.h"
#include "tests/support/temp_folder.h"

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

Ref<Module> dense(double dropout = 0.1) {
  Ref<Module> model = GPT2Model({.vocab_size = kVocab,
                                 .embed_dim = 8,
                                 .num_layers = 1,
                                 .num_heads = 2,
                                 .max_seq_len = kContext,
                                 .dropout = dropout});
  init_gpt2(*model, 1, {.seed = 1});
  return model;
}

Ref<Module> mixture() {
  constexpr int64_t kWidth = 16;
  const auto layer = [&] {
    return Block({
        Residual(Block({RMSNorm(kWidth), FlashAttentionwithRoPE(kWidth, 2, 8, {.causal = true})})),
        Residual(
            Block({RMSNorm(kWidth), SwiGLUMoEFFN({.embed_dim = kWidth,
                                                  .num_experts = 4,
                                                  .top_k = 2,
                                                  .hidden_dim = 8,
                                                  .dropout = 0.1,
                                                  .routing = {.load_balancing_coefficient = 0.1,
                                                              .z_loss_coefficient = 0.01,
                                                              .use_expert_bias = true,
                                                              .bias_update_rate = 0.01}})})),
    });
  };
  Ref<Module> model =
      Block({Embedding(kVocab, kWidth), Repeat(layer, 2), OutputHead(kWidth, kVocab)});
  init_gpt2(*model, 2, {.seed = 1});
  return model;
}

struct Setup {
  std::function<Ref<Module>()> model = [] { return dense(); };
  TrainerOptions options = {};
  int64_t validation = 0;
  bool resume = false;
  /// Whether a rank wants to stop after so many steps.
  std::function<bool(int rank, int64_t step)> should_stop = {};
};

TrainerOptions options_of(const std::string& folder, int64_t steps) {
  return {.folder = folder,
          .total_steps = steps,
          .accumulation = 4,
          .seed = 3,
          .schedule = {.kind = "cosine", .lr = 1e-2, .warmup_steps = 3}};
}

/// All bits of parameters and buffers that are on this rank.
std::map<std::string, std::vector<float>> values(Module& model) {
  std::map<std::string, std::vector<float>> result;
  for (const auto& [key, tensor] : model.state_dict())
    if (tensor.device() != meta) result[key] = to_host<float>(tensor);
  return result;
}

/// What a training leaves behind.
struct Result {
  std::vector<std::string> lines = {};  // of the metrics, without times
  std::string model = {}, optimizer = {};
  std::map<std::string, std::vector<float>> values = {};
  int64_t step = 0;
  std::optional<double> val_loss = {};
  bool finished = false;
};

std::vector<std::string> metrics(const std::string& folder) {
  std::vector<std::string> lines;
  for (const Json& line : JsonLines::read(folder + "/metrics.jsonl")) {
    Json kept = Json::object();
    for (const auto& [name, value] : line.members())
      if (name != "tokens_per_second" && name != "train_seconds") kept.append(name, value);
    lines.push_back(kept.dump());
  }
  return lines;
}

Result train(int ranks, const Setup& setup) {
  std::vector<Result> results{size_t(ranks)};
  run_ranks(ranks, [&](const dist::Comm& comm) {
    Result& result = results[size_t(comm.rank())];
    const Ref<Module> model = setup.model();
    std::shared_ptr<ExpertParallel> experts;
    const int64_t group = setup.options.dist.experts;
    if (group > 1) experts = spread_experts(*model, group);
    AdamW optimizer(decay_groups(model->parameters(), 0.1), {.lr = 1e-2, .clip_norm = 1});
    std::unique_ptr<Trainer> trainer;
    TrainerCallbacks callbacks;
    if (setup.should_stop)
      callbacks.should_stop = [&] {
        return trainer && setup.should_stop(comm.rank(), trainer->step());
      };
    trainer = std::make_unique<Trainer>(
        model, optimizer, Loader(small_tokens(), {.batch = 2, .context = kContext, .seed = 5}),
        setup.validation > 0 ? small_tokens(setup.validation) : TokenDataset(), setup.options,
        callbacks, std::make_shared<ByteTokenizer>(), comm, experts);
    if (setup.resume) trainer->resume();
    result.finished = trainer->run();
    result.step = trainer->step();
    result.val_loss = trainer->validation_loss();
    result.values = values(*model);
  });
  const std::string& folder = setup.options.folder;
  for (const Result& other : results) {
    if (setup.options.dist.experts == 1) CHECK(other.values == results[0].values);
    CHECK(other.step == results[0].step);
    CHECK(other.finished == results[0].finished);
    CHECK(other.val_loss == results[0].val_loss);
  }
  Result& result = results[0];
  const std::string checkpoint = Checkpoints(folder).path(result.step);
  result.model = read_file(checkpoint + "/model.safetensors");
  result.optimizer = read_file(checkpoint + "/optimizer.safetensors");
  result.lines = metrics(folder);
  return result;
}

void check_same(const Result& got, const Result& wanted) {
  CHECK(got.lines == wanted.lines);
  CHECK(got.model == wanted.model);
  CHECK(got.optimizer == wanted.optimizer);
  CHECK(got.val_loss == wanted.val_loss);
}

}  // namespace

TEST_SUITE("nn/training_ranks") {
  TEST_CASE("a dense model: losses, weights and checkpoints have the same bits on any number") {
    const TempFolder one;
    Setup setup{.options = options_of(one.path(), 6), .validation = 20003};
    setup.options.accumulation = 5;
    setup.options.eval_every = 3;
    setup.options.end_of_text = 0;
    const Result wanted = train(1, setup);
    REQUIRE(wanted.lines.size() == 7);
    CHECK(wanted.finished);
    CHECK(wanted.lines[3].find("val_loss") != std::string::npos);
    for (const int ranks : {2, 3, 4})
      for (const int64_t zero : {0, 1}) {
        const TempFolder many;
        setup.options.folder = many.path();
        setup.options.dist.zero = zero;
        setup.options.dist.buckets = 0.001;
        INFO(ranks, " ranks, zero ", zero);
        check_same(train(ranks, setup), wanted);
      }
  }

  TEST_CASE("a mixture of experts: loads, losses and biases are those of all ranks") {
    const TempFolder one;
    Setup setup{.model = mixture, .options = options_of(one.path(), 6), .validation = 206};
    setup.options.loads_every = 2;
    setup.options.eval_every = 3;
    const Result wanted = train(1, setup);
    REQUIRE(wanted.lines.size() == 7);
    CHECK(wanted.lines[2].find("load_balancing_loss") != std::string::npos);
    const std::string bias = "blocks.1.stack.1.blocks.1.block.blocks.1.router.expert_bias";
    CHECK(wanted.values.at(bias) != std::vector<float>(4, 0));
    for (const int ranks : {2, 4}) {
      const TempFolder many;
      setup.options.folder = many.path();
      INFO(ranks, " ranks");
      check_same(train(ranks, setup), wanted);
    }
  }

  TEST_CASE("all ranks begin with the biases of the first one") {
    const TempFolder one, two;
    Setup setup{.options = options_of(one.path(), 2)};
    setup.model = [] {
      Ref<Module> model = mixture();
      const double bias = dist::world().rank();
      model->for_each_buffer([&](const std::string&, Buffer& buffer) {
        if (buffer.persistent()) buffer.assign(full(buffer.tensor().shape(), bias));
      });
      return model;
    };
    const Result wanted = train(1, setup);
    setup.options.folder = two.path();
    check_same(train(2, setup), wanted);
  }

  TEST_CASE("what modules report is a mean over the targets of all micro-batches") {
    class Reports final : public Module {
     public:
      Tensor forward(const Tensor& x, Context& ctx) override {
        if (ctx.metrics) {
          const std::vector<float> first = to_host<float>(x);
          ctx.metrics->values["mean"] = first[0];
          if (x.size(0) == 1) ctx.metrics->values["once"] = 0.1;
        }
        return x;
      }
      std::string type_name() const override { return "Reports"; }
    };
    // Five windows as batches of 2, 2 and 1.
    const LoaderOptions how{.batch = 2, .context = kContext, .shuffle = false};
    for (const int ranks : {1, 2, 3}) {
      std::map<std::string, double> got;
      double wanted = 0;
      run_ranks(ranks, [&](const dist::Comm& comm) {
        const Ref<Module> model =
            Block({Embedding(kVocab, 4), make<Reports>(), OutputHead(4, kVocab)});
        init(*model, {.seed = 1});
        SGD optimizer(model->parameters(), {});
        const Loader loader(small_tokens(41), how);
        if (comm.rank() == 0)
          for (int64_t i = 0; i < 3; ++i) {
            const Batch batch = loader.at(i);
            Metrics metrics;
            Context ctx{.metrics = &metrics};
            model->loss(batch.inputs, batch.targets, ctx);
            wanted += metrics.values.at("mean") * double(batch.targets.numel()) / 40;
          }
        Trainer(model, optimizer, loader, {}, {.total_steps = 1, .accumulation = 3},
                {.on_step = [&](const StepReport& r) { got = r.metrics; }})
            .run();
      });
      CHECK(got.at("mean") == doctest::Approx(wanted));
      CHECK(got.at("once") == 0.1);
    }
  }

  TEST_CASE("experts that are spread over ranks: training, evaluation, samples and a resume") {
    const TempFolder one, many;
    Setup setup{.model = mixture, .options = options_of(one.path(), 6), .validation = 20003};
    setup.options.eval_every = setup.options.sample_every = 3;
    setup.options.sample = {.tokens = 5, .context = kContext};
    setup.options.prompt = {1, 2};
    const Result wanted = train(1, setup);
    setup.options.folder = many.path();
    setup.options.dist.experts = 2;
    setup.should_stop = [](int rank, int64_t step) { return rank == 1 && step == 2; };
    CHECK(train(2, setup).step == 2);
    setup.should_stop = {};
    setup.resume = true;
    check_same(train(4, setup), wanted);
    CHECK(read_file(one / "samples.jsonl") == read_file(many / "samples.jsonl"));
  }

  TEST_CASE("one rank is asked to stop, all stop at that step; another number goes on") {
    for (const auto& model : {std::function<Ref<Module>()>([] { return dense(); }),
                              std::function<Ref<Module>()>(mixture)}) {
      const TempFolder whole, parts;
      Setup setup{.model = model, .options = options_of(whole.path(), 9)};
      const Result wanted = train(1, setup);
      setup.options.folder = parts.path();
      setup.should_stop = [](int rank, int64_t step) { return rank == 1 && step == 4; };
      const Result stopped = train(2, setup);
      CHECK_FALSE(stopped.finished);
      CHECK(stopped.step == 4);
      setup.resume = true;
      setup.options.seed = 4;  // what was begun keeps its own
      setup.should_stop = [](int rank, int64_t step) {
        if (rank == 3 && step == 7) dist::ask_all_to_stop();
        return false;
      };
      CHECK(train(4, setup).step == 7);
      setup.should_stop = {};
      const Result ended = train(1, setup);
      CHECK(ended.finished);
      check_same(ended, wanted);
    }
  }

  TEST_CASE("a wish that reaches one rank in an evaluation leaves it unfinished on all") {
    const TempFolder folder;
    Setup setup{.options = options_of(folder.path(), 2), .validation = 40003};
    setup.options.eval_every = 2;
    std::atomic<int> asked = 0;
    // Before the first step there is an evaluation of two rounds; asked in the second.
    setup.should_stop = [&](int rank, int64_t) { return rank == 1 && ++asked >= 2; };
    const Result cut = train(2, setup);
    CHECK_FALSE(cut.finished);
    CHECK_FALSE(cut.val_loss.has_value());
    CHECK(cut.step == 0);
    setup.should_stop = {};
    setup.resume = true;
    const Result ended = train(2, setup);
    CHECK(ended.finished);
    CHECK(ended.lines.size() == 3);
    CHECK(ended.lines[0].find("val_loss") != std::string::npos);
  }

  TEST_CASE(
      "an evaluation has the bits of one rank on any number, more than there are batches too") {
    const Ref<Module> model = dense();
    for (const int64_t size : {9, 13, 16385, 40003}) {
      const EvalReport wanted = evaluate(*model, small_tokens(size), kContext);
      for (const int ranks : {2, 3, 4})
        run_ranks(ranks, [&](const dist::Comm& comm) {
          const EvalReport got =
              evaluate(*dense(), small_tokens(size), kContext, f32, {}, true, {}, comm);
          require(got.loss == wanted.loss && got.tokens == wanted.tokens && got.finished, "rank ",
                  comm.rank(), " of ", ranks, ": ", got.loss, " for ", wanted.loss);
        });
    }
  }

  TEST_CASE("samples are drawn once, and measuring changes nothing") {
    const TempFolder one, two;
    const auto run = [&](int ranks, const std::string& folder, bool measured) {
      std::vector<std::map<std::string, std::vector<float>>> weights{size_t(ranks)};
      std::atomic<int> samples = 0, steps = 0, checkpoints = 0, evaluations = 0;
      std::vector<Timing> timings{size_t(ranks)};
      run_ranks(ranks, [&](const dist::Comm& comm) {
        const Ref<Module> model = dense();
        SGD optimizer(model->parameters(), {});
        TrainerOptions options = options_of(folder, 3);
        options.eval_every = options.sample_every = 1;
        options.sample = {.tokens = 5, .context = kContext};
        options.prompt = {1, 2};
        options.total_steps = 3 + comm.size();  // replaced below
        Trainer trainer(model, optimizer, Loader(small_tokens(), {.batch = 2, .context = kContext}),
                        small_tokens(100), options,
                        {.on_step = [&](const StepReport& r) { steps += int(r.tokens); },
                         .on_eval = [&](const EvalReport&) { ++evaluations; },
                         .on_sample = [&](const SampleReport&) { ++samples; },
                         .on_checkpoint = [&](int64_t, const std::string&) { ++checkpoints; }},
                        std::make_shared<ByteTokenizer>());
        trainer.set_total_steps(3 + comm.rank());  // rank 0's holds
        if (measured) timings[size_t(comm.rank())] = trainer.measure(0.02);
        if (measured) require(trainer.time_weights() > 0, "no time for the weights");
        trainer.run();
        weights[size_t(comm.rank())] = values(*model);
        Trainer again(model, optimizer, Loader(small_tokens(), {.batch = 2, .context = kContext}),
                      small_tokens(100), options, {}, std::make_shared<ByteTokenizer>());
        again.resume();  // at the last step, whose sample is there
        require(again.run(), "the end was not reached");
      });
      CHECK(evaluations == 4);
      CHECK(samples == 3);
      CHECK(steps == 3 * 4 * 2 * kContext);
      CHECK(checkpoints == 1);
      CHECK(JsonLines::read(folder + "/samples.jsonl").size() == 3);
      for (const Timing& t : timings) {
        CHECK(t.step_seconds == timings[0].step_seconds);
        CHECK(t.sample_seconds == timings[0].sample_seconds);
        CHECK((t.eval_seconds > 0) == measured);
      }
      return weights;
    };
    const auto wanted = run(1, one.path(), false), got = run(2, two.path(), true);
    CHECK(got[0] == wanted[0]);
    CHECK(got[1] == wanted[0]);
    CHECK(read_file(one / "samples.jsonl") == read_file(two / "samples.jsonl"));
  }
}
