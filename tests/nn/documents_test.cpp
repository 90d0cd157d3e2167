// Several documents packed into one sequence.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/engine/json.h>
#include <olm/nn/models.h>
#include <olm/nn/training.h>
#include <tests/support/attention_variants.h>
#include <tests/support/checks.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kEnd = 6;
// Documents of 4, 1, 3 and 2 tokens; the last one is cut off.
const std::vector<int64_t> kIds{1, 2, 3, kEnd, kEnd, 4, 5, kEnd, 0, 2};
const std::vector<int64_t> kBounds{0, 4, 5, 8, 10};

Context packed() {
  Context ctx;
  set_documents(ctx, from_host(kIds, {1, 10}), kEnd);
  return ctx;
}

/// y, dx and the gradients of all parameters for a gradient dy.
Tensors run(Module& layer, const Tensor& x, const Tensor& dy, Context ctx = {}) {
  const Tensor in = raw::clone(x);
  set_requires_grad(in);
  const Tensor y = layer.forward(in, ctx);
  backward(y, {.gradient = dy});
  return {y, grad(in)};
}

/// Tokens of which every `period`-th ends a document.
TokenDataset documents(int64_t count, int64_t period) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(i % period == period - 1 ? int32_t(kEnd) : int32_t((i * i + i / 3) % kEnd));
  return TokenDataset::from_ids(ids, kEnd + 1);
}

Ref<BlockModule> small_model() {
  const auto model = GPT2Model({.vocab_size = kEnd + 1,
                                .embed_dim = 8,
                                .num_layers = 1,
                                .num_heads = 2,
                                .max_seq_len = 10,
                                .dropout = 0});
  init(model, {.seed = 2});
  return model;
}

}  // namespace

TEST_SUITE("nn/documents") {
  TEST_CASE("documents are numbered, and positions begin anew in each") {
    const std::vector<int64_t> ids{1, kEnd, 2, 3, kEnd, kEnd, 4, 5, kEnd, 1};
    Context ctx;
    set_documents(ctx, from_host(ids, {2, 5}), kEnd);
    CHECK(to_host<int64_t>(ctx.documents) == std::vector<int64_t>{0, 0, 1, 1, 1, 0, 1, 1, 1, 2});
    CHECK(to_host<int64_t>(ctx.positions) == std::vector<int64_t>{0, 1, 0, 1, 2, 0, 0, 1, 2, 0});
    CHECK(ctx.documents.shape() == Shape{2, 5});
    Context narrow;
    set_documents(narrow, raw::cast(from_host(ids, {2, 5}), i32), kEnd);
    check_same_bits(narrow.positions, ctx.positions, "i32");
    set_documents(narrow, from_host(ids, {2, 5}), kEnd, meta);
    CHECK(narrow.documents.device() == meta);
    CHECK(narrow.positions.device() == meta);
    set_documents(narrow, zeros({0, 3}, {.dtype = i64}), kEnd);
    CHECK(narrow.documents.shape() == Shape{0, 3});
    check_error([&] { set_documents(ctx, zeros({3}, {.dtype = i64}), 0); }, {"[B,T]", "[3]"});
    check_error([&] { set_documents(ctx, zeros({1, 3}), 0); }, {"i64", "f32"});
  }

  TEST_CASE("every layer computes a packed row as its documents alone, gradients too") {
    Generator rng(6);
    for (const AttentionVariant& v : attention_variants(12)) {
      INFO(v.name << " " << to_json(v.options).dump());
      const auto layer = Attention(v.name, v.options), alone = Attention(v.name, v.options);
      init(layer, {.seed = 4});
      alone->load_state_dict(layer->state_dict());
      const Tensor x = randn({1, 10, 12}, rng), dy = randn({1, 10, 12}, rng);
      const Tensors got = run(*layer, x, dy, packed());
      for (size_t d = 0; d + 1 < kBounds.size(); ++d) {
        const int64_t begin = kBounds[d], end = kBounds[d + 1];
        const Tensors one = run(*alone, tokens(x, begin, end), tokens(dy, begin, end));
        check_close(tokens(got[0], begin, end), one[0], f32, 12, "y", 0.1);
        check_close(tokens(got[1], begin, end), one[1], f32, 12, "dx", 0.1);
      }
      for (const auto& [key, p] : layer->named_parameters())
        if (grad(p).defined())  // a user's layer may leave a sink out
          check_close(grad(p), grad(alone->parameter(key).tensor()), f32, 120, key, 0.1);
    }
  }

  TEST_CASE("a model with learned or rotary positions gives documents the logits they have alone") {
    const DecoderConfig llama{.vocab_size = kEnd + 1,
                              .embed_dim = 8,
                              .num_layers = 2,
                              .num_heads = 2,
                              .num_kv_heads = 1,
                              .max_seq_len = 10};
    for (const Ref<BlockModule>& model : {small_model(), Llama3Model(llama)}) {
      init(model, {.seed = 3});
      const NoGrad guard;
      const Tensor ids = from_host(kIds, {1, 10});
      Context ctx = packed();
      const Tensor y = model(ids, ctx);
      for (size_t d = 0; d + 1 < kBounds.size(); ++d)
        check_close(tokens(y, kBounds[d], kBounds[d + 1]),
                    model(tokens(ids, kBounds[d], kBounds[d + 1])), f32, 12, "logits", 0.1);
      CHECK(difference(model(ids), y).relative_l2 > 0.01);
    }
  }

  TEST_CASE("evaluation masks across documents where it is told their end") {
    const auto model = small_model();
    const TokenDataset data = TokenDataset::from_ids(
        std::vector<int32_t>{1, 2, 3, int32_t(kEnd), 4, 5, int32_t(kEnd), 0, 2, 4, 1}, kEnd + 1);
    Context ctx;
    const Tensor ids = from_host<int64_t>({1, 2, 3, kEnd, 4, 5, kEnd, 0, 2, 4}, {1, 10});
    const Tensor targets = from_host<int64_t>({2, 3, kEnd, 4, 5, kEnd, 0, 2, 4, 1}, {1, 10});
    set_documents(ctx, ids, kEnd);
    const NoGrad guard;
    const double masked = model->loss(ids, targets, ctx).item<double>();
    CHECK(evaluate(*model, data, 10, f32, {}, true, kEnd).loss == doctest::Approx(masked));
    CHECK(std::abs(evaluate(*model, data, 10).loss - masked) > 1e-4);
  }

  TEST_CASE("a trainer masks across documents in training and evaluation") {
    const auto losses = [](std::optional<int64_t> end_of_text) {
      const auto model = small_model();
      AdamW optimizer(model->parameters(), {.lr = 1e-2});
      std::vector<double> result;
      Trainer(model, optimizer, Loader(documents(500, 4), {.batch = 3, .context = 10, .seed = 5}),
              documents(100, 4), {.total_steps = 4, .eval_every = 4, .end_of_text = end_of_text},
              {.on_step = [&](const StepReport& r) { result.push_back(r.loss); },
               .on_eval = [&](const EvalReport& r) { result.push_back(r.loss); }})
          .run();
      return result;
    };
    const std::vector<double> across = losses({}), within = losses(kEnd);
    REQUIRE(within.size() == 6);
    for (size_t i = 0; i < across.size(); ++i) CHECK(across[i] != within[i]);

    // The first step's loss is that of the first batch with its documents.
    const auto model = small_model();
    const Batch batch = Loader(documents(500, 4), {.batch = 3, .context = 10, .seed = 5}).next();
    Context ctx;
    set_documents(ctx, batch.inputs, kEnd);
    const double first = model->loss(batch.inputs, batch.targets, ctx).item<double>();
    CHECK(within[1] == doctest::Approx(first).epsilon(1e-6));
  }
}
