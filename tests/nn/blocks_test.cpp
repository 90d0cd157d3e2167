#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/nn/activations.h>
#include <olm/nn/blocks.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// loss() and the cross-entropy of forward(), with their gradients.
void check_loss_is_cross_entropy(const Ref<OutputHeadModule>& head) {
  init(head, {.seed = 5});
  Generator rng(2);
  const Tensor x = randn({2, 5, 6}, rng);
  const Tensor targets = from_host<int64_t>({1, 2, -100, 3, 10, 0, 0, 7, -100, 9}, {2, 5});
  Tensors gradients[2];
  for (int fused = 0; fused < 2; ++fused) {
    set_requires_grad(x);
    Context ctx;
    const Tensor loss = fused ? head->loss(x, targets, ctx) : cross_entropy(head(x), targets);
    backward(loss);
    gradients[fused] = {loss, grad(x)};
    for (const Tensor& p : head->parameters()) gradients[fused].push_back(grad(p));
    zero_grad(x);
    head->zero_grad();
  }
  for (size_t i = 0; i < gradients[0].size(); ++i)
    check_close(gradients[1][i], gradients[0][i], f32, 100, "gradient");
}

}  // namespace

TEST_SUITE("nn/blocks") {
  TEST_CASE("values and gradients are OLM's") {
    check_layer_parity("TransformerBlock", TransformerBlock(8, 2, 6));
    check_layer_parity("OutputHead", OutputHead(6, 11));
    check_layer_parity("OutputHead.bias", OutputHead(6, 11, {.bias = true, .norm = RMSNorm(6)}));
    check_layer_parity("OutputHead.tied",
                       OutputHead(6, 11, {.bias = true, .tied_embedding = Embedding(11, 6)}));
    check_layer_parity(
        "LM",
        LM({.vocab_size = 11, .embed_dim = 8, .num_heads = 2, .num_layers = 2, .max_seq_len = 6}));
  }

  TEST_CASE("the loss of a head is the cross-entropy of its logits") {
    check_loss_is_cross_entropy(OutputHead(6, 11));
    check_loss_is_cross_entropy(OutputHead(6, 11, {.bias = true, .softcap = 1.5}));
    check_loss_is_cross_entropy(OutputHead(6, 11, {.use_norm = false}));
    check_loss_is_cross_entropy(OutputHead(6, 11, {.norm = RMSNorm(6)}));
    const auto replaced = OutputHead(6, 11);
    replaced->blocks.replace(1, Block({Linear(6, 4), Linear(4, 11)}));
    check_loss_is_cross_entropy(replaced);
  }

  TEST_CASE("losses of layers are added") {
    const auto head = OutputHead(6, 11);
    init(head);
    const Tensor x = ones({1, 2, 6}), targets = from_host<int64_t>({1, 2}, {1, 2});
    Context plain, with{.aux_losses = {full({}, 0.5), full({}, 0.25)}};
    const double loss = head->loss(x, targets, plain).item<double>();
    CHECK(head->loss(x, targets, with).item<double>() == doctest::Approx(loss + 0.75));
  }

  TEST_CASE("softcap bounds the logits") {
    const auto head = OutputHead(6, 11, {.softcap = 0.5});
    init(head);
    Generator rng(2);
    for (const float v : to_host<float>(head(randn({1, 4, 6}, rng)))) CHECK(std::abs(v) <= 0.5f);
  }

  TEST_CASE("a tied head shares the embedding's weight") {
    const auto tokens = Embedding(11, 6);
    const auto head = OutputHead(6, 11, {.bias = true, .tied_embedding = tokens});
    const auto model = Block({tokens, head});
    init(model);
    CHECK(model->num_parameters() == 11 * 6 + 2 * 6 + 11);
    CHECK(model->parameter("blocks.1.blocks.1.weight").is_tied_to(tokens->weight));
    for (const float v : to_host<float>(model->parameter("blocks.1.blocks.1.bias").tensor()))
      CHECK(v == 0);
    check_error([&] { OutputHead(6, 12, {.tied_embedding = tokens}); },
                {"OutputHead", "[11,6]", "[12,6]"});
  }

  TEST_CASE("TransformerBlock is causal, and its attention can be chosen") {
    Generator rng(3);
    const Tensor x = randn({1, 5, 8}, rng);
    for (const char* attention :
         {"FlashAttentionwithRoPE", "MultiHeadAttentionwithRoPE", "FlashAttention",
          "MultiHeadAttention", "MultiHeadAttentionwithALiBi", "GroupedQueryAttention"}) {
      INFO(attention);
      const auto layer = TransformerBlock(8, 2, 6, {.attention = attention});
      init(layer);
      CHECK(layer->get("blocks.0.block.blocks.1")->type_name() == attention);
      const Tensor changed = raw::clone(x);
      raw::fill_(raw::slice(changed, 1, 4, 5), 3);
      const NoGrad guard;
      const Tensor y = layer(x), z = layer(changed);
      const auto first_four = [](const Tensor& t) {
        return raw::contiguous(raw::slice(t, 1, 0, 4));
      };
      check_same_bits(first_four(y), first_four(z), "earlier tokens");
      CHECK(to_host<float>(y) != to_host<float>(z));
    }
    check_error([] { TransformerBlock(8, 2, 6, {.attention = "Linear"}); },
                {"Linear", "FlashAttentionwithRoPE"});
    check_error([] { OutputHead(6, 0); }, {"OutputHead", "vocab_size 0"});
    check_error([] { OutputHead(6, 5, {.softcap = 0}); }, {"OutputHead", "softcap"});
  }
}
