// A model whose experts are spread over ranks: what stays here, what can be done with it, and what
// is refused.
#include <doctest/doctest.h>

#include <olm/nn/activations.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <tests/support/checks.h>
#include <tests/support/moe_decoder.h>
#include <tests/support/ranks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

TEST_SUITE("nn/experts_spread") {
  TEST_CASE("a rank keeps its share of the experts, and the rest of the model whole") {
    run_ranks(4, [](const dist::Comm& world) {
      const auto model = decoder(kDecoders[0]);
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
      CHECK(model->parameters().size() == decoder(kDecoders[0])->parameters().size());
      CHECK(device_of(*model) == cpu);
      const auto first = Block({model->get(kFirstMixture + "experts.0"), Linear(2, 2)});
      init(*first->get("blocks.1"));
      CHECK(device_of(*first) == cpu);
      CHECK(summary(*model).find("(on another rank)") != std::string::npos);
    });
  }

  TEST_CASE("groups are neighbours, and replicas are one of each group") {
    run_ranks(6, [](const dist::Comm& world) {
      const auto model = decoder(kDecoders[0]);
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
      const auto whole = decoder(kDecoders[0]);
      CHECK(spread_experts(*whole, 1, world)->sources().empty());
      CHECK(whole->parameter(kFirstMixture + "experts.7.up_proj.weight").tensor().device() == cpu);
    });
  }

  TEST_CASE("filling, loading, converting and moving pass by what another rank keeps") {
    TempFolder folder;
    const MadeDecoder& made = kDecoders[2];
    const auto whole = decoder(made);
    save_weights(*whole, folder.path() + "/w.safetensors");
    run_ranks(2, [&](const dist::Comm& world) {
      const auto model = decoder(made);
      const auto experts = spread_experts(*model, 2, world);
      const auto check = [&](DType dtype) {
        CHECK(model->leaves().size() == model->parameters().size() + experts->sources().size());
        for (const auto& source : experts->sources()) {  // they follow where parameters go
          CHECK(source.leaf.impl().storage == source.parameter.impl().storage);
          CHECK(source.leaf.dtype() == dtype);
        }
        for (const auto& [key, p] : model->named_parameters()) {
          CHECK(p.dtype() == dtype);
          if (p.device() == cpu)
            CHECK(bits(p) == bits(raw::cast(whole->parameter(key).tensor(), dtype)));
        }
        CHECK(model->parameter(kFirstMixture + "experts.0.up_proj.weight").is_elsewhere() ==
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
    });
  }

  TEST_CASE("what cannot be spread is refused") {
    const auto refused = [](Module& model, int64_t ranks, int world,
                            const std::vector<std::string>& parts) {
      run_ranks(world, [&](const dist::Comm& comm) {
        const auto own = unfilled_copy(model);
        init(*own);
        check_error([&] { spread_experts(*own, ranks, comm); }, parts);
        if (world % ranks == 0)
          check_error([&] { require_spreadable_experts(*own, ranks); }, parts);
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
      const auto model = decoder(kDecoders[0]);
      const auto experts = spread_experts(*model, 2, world);
      experts->check_micro_batches(8, true);
      experts->check_micro_batches(16, true);
      experts->check_micro_batches(12, false);
      check_error([&] { experts->check_micro_batches(12, true); },
                  {"12 micro-batches", "ranks 0 to 1", "[0, 4)", "fixed order"});
      check_error([&] { experts->check_micro_batches(5, false); }, {"5", "same number", "2 and 1"});
    });
  }

  TEST_CASE("experts can be frozen and trained again, but not replaced") {
    run_ranks(2, [](const dist::Comm& world) {
      const MadeDecoder& made = kDecoders[1];  // recomputes
      const auto model = decoder(made);
      const auto experts = spread_experts(*model, 2, world);
      const auto freeze = [&](bool frozen) {
        model->for_each_parameter([&](const std::string& key, Parameter& p) {
          if (is_expert(key)) p.set_trainable(!frozen);
        });
      };
      const auto gradients = [&] {
        run_micro_batch(*model, made, world.rank());
        int64_t count = 0;
        for (const auto& source : experts->sources()) count += grad(source.leaf).defined();
        model->zero_grad();
        return count;
      };
      const int64_t trained = gradients();
      CHECK(trained > 0);
      freeze(true);
      CHECK(gradients() == 0);
      freeze(false);
      CHECK(gradients() == trained);
      const auto fresh = decoder(made);
      for (const char* name : {"experts.1", "experts.6"})  // one on each rank
        model->replace(kFirstMixture + name, fresh->get(kFirstMixture + name));
      check_error([&] { run_micro_batch(*model, made, 0); },
                  {"replaced after they had been spread"});
    });
  }
}
