// Trainings on several ranks, which are threads here, of which one fails or differs.
#include <doctest/doctest.h>

#include <olm/engine/file.h>
#include <olm/nn/models.h>
#include <olm/nn/training.h>

#include "tests/support/checks.h"
#include "tests/support/ranks.h"
#include "tests/support/small_tokens.h"
#include "tests/support/temp_folder.h"

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

Ref<Module> small_model(int64_t width = 8) {
  Ref<Module> model = GPT2Model({.vocab_size = kVocab,
                                 .embed_dim = width,
                                 .num_layers = 1,
                                 .num_heads = 2,
                                 .max_seq_len = kContext,
                                 .dropout = 0});
  init_gpt2(*model, 1, {.seed = 1});
  return model;
}

/// A model that throws in training or where it is used.
class Failing final : public BaseCombinator {
 public:
  Failing(Ref<Module> block, std::function<bool(const Context&)> fails)
      : block(this, "block", std::move(block)), fails_(std::move(fails)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    require(!fails_(ctx), "the model fails");
    return block(x, ctx);
  }
  Tensor loss(ResidualStream in, const Tensor& targets, Context& ctx,
              const CrossEntropyOptions& options = {}) override {
    require(!fails_(ctx), "the model fails");
    return block->loss(in, targets, ctx, options);
  }
  std::string type_name() const override { return "Failing"; }
  Child<> block;

 private:
  std::function<bool(const Context&)> fails_;
};

TrainerOptions steps(int64_t count, int64_t accumulation = 4) {
  return {.total_steps = count,
          .accumulation = accumulation,
          .seed = 3,
          .schedule = {.kind = "constant", .lr = 1e-2}};
}

/// How f ends on each rank: by what sentence, and whether that is another rank's. None leaves
/// run_ranks(), which would end the others by itself.
struct Ends {
  std::vector<std::string> said;
  std::vector<int> of_peer;
};
Ends ends_of(int ranks, const std::function<void(const dist::Comm&)>& f) {
  Ends ends{std::vector<std::string>(size_t(ranks)), std::vector<int>(size_t(ranks))};
  run_ranks(ranks, [&](const dist::Comm& comm) {
    const auto rank = size_t(comm.rank());
    try {
      f(comm);
    } catch (const std::exception& error) {
      ends.of_peer[rank] = dynamic_cast<const dist::PeerError*>(&error) != nullptr;
      ends.said[rank] = error.what();
    }
  });
  return ends;
}

/// What a rank differs in.
struct Variation {
  int64_t width = 8, size = 2000, step = 1;
  TrainerOptions options = steps(3);
  uint64_t loader_seed = 5;
};

/// Makes a trainer on three ranks, the last of which differs.
void check_all_say(const Variation& last, const std::string& part) {
  const Ends ends = ends_of(3, [&](const dist::Comm& comm) {
    const Variation mine = comm.rank() == 2 ? last : Variation{};
    const Ref<Module> model = small_model(mine.width);
    SGD optimizer(model->parameters(), {});
    Trainer(
        model, optimizer,
        Loader(small_tokens(mine.size, mine.step), {.context = kContext, .seed = mine.loader_seed}),
        {}, mine.options);
  });
  for (const std::string& sentence : ends.said) CHECK_MESSAGE(contains(sentence, part), sentence);
}

}  // namespace

TEST_SUITE("nn/training_failure") {
  TEST_CASE("ranks that disagree say on what, and who has what") {
    Variation d;
    d.options.seed = 4;
    check_all_say(d, "ranks disagree on seed: 3 on ranks 0 and 1, 4 on rank 2");
    d = {};
    d.options.accumulation = 5;
    check_all_say(d, "disagree on accumulation: 4 on ranks 0 and 1, 5 on rank 2");
    d = {};
    d.options.schedule.lr = 2e-2;
    check_all_say(d, "disagree on schedule.lr: 0.01 on ranks 0 and 1, 0.02 on rank 2");
    d = {};
    d.options.dist.buckets = 2;
    check_all_say(d, "disagree on dist.buckets: 25.0 on ranks 0 and 1, 2.0 on rank 2");
    const TempFolder folder;
    d = {};
    d.options.folder = folder.path();
    check_all_say(d, "disagree on folder: none on ranks 0 and 1, given on rank 2");
    check_all_say({.step = 2}, "disagree on training data.corpus hash: ");
    check_all_say({.width = 16}, "options.embedding_dim: 8 on ranks 0 and 1, 16 on rank 2");
    check_all_say({.loader_seed = 6}, "disagree on loader.seed: 5 on ranks 0 and 1, 6 on rank 2");
  }

  TEST_CASE("keys that are missing, long values and many ranks are named too") {
    const auto message = [](int ranks, const std::function<std::string(int)>& value) {
      return message_of<Error>([&] {
        run_ranks(ranks, [&](const dist::Comm& comm) {
          std::map<std::string, std::string> values = {{"a", "1"}, {"z", "2"}};
          const std::string mine = value(comm.rank());
          if (mine != "-") values["k"] = mine;
          require_same_on_all_ranks(values, comm);
        });
      });
    };
    CHECK(message(4, [](int) { return "x"; }).empty());
    CHECK(contains(message(2, [](int r) { return r == 0 ? "-" : "x"; }),
                   "disagree on k: not there on rank 0, x on rank 1"));
    CHECK(contains(message(2, [](int r) { return r == 0 ? "" : "x"; }),
                   "disagree on k: empty on rank 0, x on rank 1"));
    const std::string sentence = message(2, [](int r) {
      return std::string(300, 'a') + (r == 0 ? "b" : "c") + std::string(300, 'd');
    });
    CHECK(contains(sentence, "…aaaa"));
    CHECK(contains(sentence, "abddd"));
    CHECK(contains(sentence, "acddd"));
    CHECK(sentence.size() < 250);
    CHECK(contains(message(12, [](int r) { return r == 3 ? "x" : "y"; }),
                   "y on ranks 0, 1, 2, 4, 5, 6, 7, 8 and 3 more, x on rank 3"));
    Json json;
    json["optim"]["lr"] = 1;
    json["name"] = "n";
    json["list"].push_back(true);
    json["none"] = Json::array();
    CHECK(flat_members(json) ==
          std::map<std::string, std::string>{
              {"optim.lr", "1"}, {"name", "n"}, {"list.0", "true"}, {"none", "[]"}});
  }

  TEST_CASE("what one rank throws in any phase ends all, with its sentence") {
    struct Phase {
      const char* name;
      int rank;  // that fails
    };
    for (const Phase& phase :
         {Phase{"step", 1}, Phase{"step", 0}, Phase{"evaluation", 1}, Phase{"sample", 0},
          Phase{"on_step", 0}, Phase{"on_eval", 0}, Phase{"checkpoint", 0}, Phase{"should_stop", 1},
          Phase{"measure", 1}, Phase{"folder", 0}}) {
      const std::string failing = phase.name;
      INFO(failing, " on rank ", phase.rank);
      const TempFolder folder;
      const Ends ends = ends_of(3, [&](const dist::Comm& comm) {
        const bool mine = comm.rank() == phase.rank;
        const auto fail_in = [&](const char* where) {
          require(!mine || failing != where, "the ", where, " fails");
        };
        int64_t training = 0;
        const Ref<Module> model = make<Failing>(small_model(), [&](const Context& ctx) {
          if (ctx.rng && ++training == 4) fail_in("step");
          if (ctx.rng && training == 1) fail_in("measure");
          if (!ctx.rng && !ctx.cache) fail_in("evaluation");
          if (ctx.cache) fail_in("sample");
          return false;
        });
        SGD optimizer(model->parameters(), {});
        TrainerOptions options = steps(4);
        options.folder = folder.path();
        options.eval_every = 2;
        options.sample_every = 2;
        options.checkpoint_every = 3;
        options.sample = {.tokens = 5, .context = kContext};
        options.prompt = {1, 2};
        if (failing == "folder") options.folder = folder.file("text", "x");
        Trainer trainer(
            model, optimizer, Loader(small_tokens(), {.context = kContext}), small_tokens(100),
            options,
            {.on_step = [&](const StepReport&) { fail_in("on_step"); },
             .on_eval = [&](const EvalReport&) { fail_in("on_eval"); },
             .on_checkpoint = [&](int64_t, const std::string&) { fail_in("checkpoint"); },
             .should_stop =
                 [&] {
                   fail_in("should_stop");
                   return false;
                 }},
            std::make_shared<ByteTokenizer>());
        if (failing == "measure") trainer.measure(0.1);
        trainer.run();
      });
      for (int rank = 0; rank < 3; ++rank) {
        const std::string& sentence = ends.said[size_t(rank)];
        CHECK(ends.of_peer[size_t(rank)] == (rank == phase.rank ? 0 : 1));
        CHECK_MESSAGE(
            contains(sentence, failing == "folder" ? "text" : "the " + failing + " fails"),
            sentence);
      }
    }
  }

  TEST_CASE("nothing to resume from is said by the first rank, and by no other") {
    const TempFolder folder;
    const Ends ends = ends_of(2, [&](const dist::Comm&) {
      const Ref<Module> model = small_model();
      SGD optimizer(model->parameters(), {});
      TrainerOptions options = steps(2);
      options.folder = folder.path();
      Trainer trainer(model, optimizer, Loader(small_tokens(), {.context = kContext}), {}, options);
      trainer.resume();
    });
    for (const std::string& sentence : ends.said) CHECK(contains(sentence, "no checkpoint"));
    CHECK(ends.of_peer == std::vector<int>{0, 1});
  }

  TEST_CASE("a folder that one rank does not see is named before a step") {
    const TempFolder folder, other;
    const Ends ends = ends_of(2, [&](const dist::Comm& comm) {
      const Ref<Module> model = small_model();
      SGD optimizer(model->parameters(), {});
      TrainerOptions options = steps(2);
      options.folder = (comm.rank() == 0 ? folder : other).path() + "/run";
      Trainer(model, optimizer, Loader(small_tokens(), {.context = kContext}), {}, options);
    });
    for (const std::string& sentence : ends.said) CHECK(contains(sentence, "rank 1 on "));
    CHECK(ends.of_peer == std::vector<int>{1, 0});
  }

  TEST_CASE("a step that threw is made again, to the same bits, where one process goes on") {
    const auto weights = [](int64_t failing) {
      int64_t passes = 0;
      const Ref<Module> inner = small_model();
      const Ref<Module> model =
          make<Failing>(inner, [&](const Context&) { return ++passes == failing; });
      SGD optimizer(model->parameters(), {.momentum = 0.9});
      Trainer trainer(model, optimizer, Loader(small_tokens(), {.context = kContext}), {},
                      steps(3));
      const std::string sentence = message_of<Error>([&] { trainer.run(); });
      CHECK(sentence.empty() == (failing == 0));
      CHECK(trainer.step() == (failing == 0 ? 3 : 1));
      if (failing > 0) CHECK(trainer.run());
      CHECK(trainer.step() == 3);
      std::vector<std::vector<float>> all;
      for (const Tensor& p : inner->parameters()) all.push_back(to_host<float>(p));
      return all;
    };
    CHECK(weights(4 + 3) == weights(0));  // the third of four micro-batches of the second step
  }

  TEST_CASE("a checkpoint that failed is written where the run goes on") {
    const TempFolder folder;
    const Ref<Module> model = small_model();
    SGD optimizer(model->parameters(), {});
    TrainerOptions options = steps(1);
    options.folder = folder.path();
    const std::string in_the_way = folder.file("checkpoints", "a file");
    Trainer trainer(model, optimizer, Loader(small_tokens(), {.context = kContext}), {}, options);
    CHECK(contains(message_of<Error>([&] { trainer.run(); }), "checkpoints"));
    remove_all(in_the_way);
    CHECK(trainer.run());
    CHECK(Checkpoints(folder.path()).steps() == std::vector<int64_t>{1});
  }

  TEST_CASE("more ranks than micro-batches are refused") {
    const std::string sentence = message_of<Error>([&] {
      run_ranks(3, [&](const dist::Comm&) {
        const Ref<Module> model = small_model();
        SGD optimizer(model->parameters(), {});
        Trainer(model, optimizer, Loader(small_tokens(), {.context = kContext}), {}, steps(2, 2))
            .run();
      });
    });
    CHECK(contains(sentence, "3"));
    CHECK(contains(sentence, "2"));
  }
}
