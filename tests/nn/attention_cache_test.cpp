// Decoding with a cache and without one.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/json.h>
#include <olm/nn/blocks.h>
#include <olm/nn/generate.h>
#include <olm/nn/norms.h>
#include <tests/support/attention_variants.h>
#include <tests/support/checks.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 29, kTime = 26;

Ref<BlockModule> language_model(const AttentionVariant& v) {
  const auto layer = [&] {
    return Block({Residual(Block({RMSNorm(12), Attention(v.name, v.options)}))});
  };
  const auto model = Block({Embedding(kVocab, 12), Repeat(layer, 2), OutputHead(12, kVocab)});
  init(model, {.seed = 9});
  // Scores of several units, sinks that matter.
  Generator rng(2);
  model->for_each_parameter([&](const std::string& key, Parameter& p) {
    if (key.find("attention_sink") != std::string::npos) p.assign(randn(p.shape(), rng));
    if (key.find("_proj") != std::string::npos && p.shape().rank() == 2)
      p.assign(randn(p.shape(), rng) * 0.7);
  });
  return model;
}

int64_t likeliest(const Tensor& logits) {
  const std::vector<float> row =
      to_host<float>(raw::select(raw::select(logits, 0, 0), 0, logits.size(1) - 1));
  return std::max_element(row.begin(), row.end()) - row.begin();
}

/// The prompt and what follows it greedily, up to kTime tokens: with a cache, which the prompt
/// enters in pieces of the given lengths, or by the whole sequence each time.
std::vector<int64_t> greedy(Module& model, std::vector<int64_t> ids, std::vector<int64_t> pieces) {
  const NoGrad guard;
  KVCache cache(kTime);
  const bool cached = !pieces.empty();
  size_t given = 0;
  while (int64_t(ids.size()) < kTime) {
    Tensor logits;
    do {
      size_t count = ids.size() - given;
      if (!pieces.empty()) count = size_t(pieces.front()), pieces.erase(pieces.begin());
      Context ctx{.cache = cached ? &cache : nullptr};
      cache.begin();
      const std::vector<int64_t> now(ids.begin() + long(given), ids.begin() + long(given + count));
      logits = model.forward(from_host(now, {1, int64_t(count)}), ctx);
      cache.advance(int64_t(count));
      given += count;
    } while (given < ids.size());
    if (!cached) given = 0, cache.clear();
    ids.push_back(likeliest(logits));
  }
  return ids;
}

}  // namespace

TEST_SUITE("nn/attention_cache") {
  TEST_CASE("with and without a cache every layer gives the same greedy tokens") {
    const std::vector<int64_t> prompt{3, 17, 4, 28, 0, 11, 9, 22};
    for (const AttentionVariant& v : attention_variants(kTime)) {
      INFO(v.name << " " << to_json(v.options).dump());
      const auto model = language_model(v);
      const std::vector<int64_t> wanted = greedy(*model, prompt, {});
      CHECK(std::set<int64_t>(wanted.begin() + 8, wanted.end()).size() > 2);
      CHECK(greedy(*model, prompt, {8}) == wanted);
      CHECK(greedy(*model, prompt, {1, 4, 2, 1}) == wanted);
      CHECK(greedy(*model, prompt, {2, 6}) == wanted);
    }
  }

  TEST_CASE("outputs with a cache are those of the whole sequence, in f64 to its rounding") {
    Generator rng(6);
    for (const AttentionVariant& v : attention_variants(14)) {
      INFO(v.name << " " << to_json(v.options).dump());
      const auto layer = Attention(v.name, v.options);
      for (const DType dtype : {f32, f64}) {
        init(layer, {.seed = 4, .dtype = dtype});
        const Tensor x = randn({2, 14, 12}, rng, {.dtype = dtype});
        const NoGrad guard;
        const Tensor whole = layer(x);
        check_close(in_pieces(*layer, x, {5, 1, 1, 3, 1, 1, 2}), whole, dtype, 12, "pieces");
        check_close(in_pieces(*layer, x, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}), whole, dtype,
                    12, "one by one");
      }
    }
  }

  TEST_CASE("bf16 activations meet f32 parameters in a cache") {
    Generator rng(6);
    for (const AttentionVariant& v : attention_variants(9)) {
      INFO(v.name << " " << to_json(v.options).dump());
      const auto layer = Attention(v.name, v.options);
      init(layer, {.seed = 4});
      const Tensor x = raw::cast(randn({2, 9, 12}, rng), bf16);
      const NoGrad guard;
      check_close(in_pieces(*layer, x, {4, 1, 1, 2, 1}), layer(x), bf16, 12, "pieces", 0.5);
    }
  }

  TEST_CASE("a cache of latent attention holds latent vectors and one rotated key") {
    const auto layer = MultiHeadLatentAttention(12, 6, 32, 10, 4, 2, 6, {.q_lora_rank = 5});
    init(layer);
    const NoGrad guard;
    KVCache cache(32);
    Context ctx{.cache = &cache};
    layer(ones({2, 3, 12}), ctx);
    CHECK(cache.bytes() == size_t(2 * 32 * (10 + 2) * 4));
    const auto usual =
        MultiHeadLatentAttention({.embed_dim = 64, .num_heads = 4, .max_seq_len = 8});
    init(usual);
    KVCache other(8);
    Context wide{.cache = &other};
    usual(ones({1, 3, 64}), wide);
    CHECK(other.bytes() == size_t(8 * 576 * 4));
  }

  TEST_CASE("latent attention with biases or a replaced projection decodes as it does at once") {
    Generator rng(3);
    const Tensor x = randn({2, 9, 12}, rng);
    const NoGrad guard;
    for (const bool replaced : {false, true}) {
      const auto layer = MultiHeadLatentAttention(12, 3, 16, 7, 5, 4, 6, {.bias = !replaced});
      init(layer);
      if (replaced) layer->replace("kv_b_proj", Block({layer->get("kv_b_proj")}));
      check_close(in_pieces(*layer, x, {4, 1, 1, 2, 1}), layer(x), f32, 12, "pieces");
    }
  }

  TEST_CASE("a window keeps a cache small however long the text is") {
    const auto layer = SlidingWindowAttention({.embed_dim = 12,
                                               .num_heads = 6,
                                               .num_kv_heads = 2,
                                               .max_seq_len = 400,
                                               .window_size = 16});
    init(layer);
    const NoGrad guard;
    Generator rng(5);
    const Tensor x = randn({1, 400, 12}, rng), whole = layer(x);
    KVCache cache(400);
    Context ctx{.cache = &cache};
    for (int64_t t = 0; t < 400; t += 2) {
      cache.begin();
      check_close(layer(tokens(x, t, t + 2), ctx), tokens(whole, t, t + 2), f32, 12, "tokens");
      cache.advance(2);
      CHECK(cache.bytes() == size_t((15 + 5) * 2 * 2 * 2 * 4));
    }
  }
}
