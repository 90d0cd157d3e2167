#pragma once
// Small decoders with mixtures of experts, and what their micro-batches give: for tests of experts
// that are spread over ranks.
#include <map>
#include <string>
#include <vector>

#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/structure.h>

namespace olm::test {

using namespace olm::nn;

inline constexpr int64_t kVocab = 11, kExperts = 8;
inline const std::string kFirstMixture = "blocks.1.stack.0.blocks.1.block.blocks.1.";

struct MadeDecoder {
  std::string name = {};
  bool gated = true, bias = true, recompute = false, skewed = false;
  DType dtype = f32;
  double dropout = 0;
  MoERoutingOptions routing = {};
  int64_t width = 16, hidden = 13, tokens = 9;
};

inline const MoERoutingOptions kBalanced{
    .load_balancing_coefficient = 0.1, .z_loss_coefficient = 0.01, .use_expert_bias = true};

inline const std::vector<MadeDecoder> kDecoders{
    {.name = "gated", .dropout = 0.2, .routing = kBalanced},
    {.name = "gated, bf16", .bias = false, .recompute = true, .dtype = bf16, .dropout = 0.1},
    {.name = "classic", .gated = false, .recompute = true, .dropout = 0.3},
    {.name = "classic, bf16", .gated = false, .dtype = bf16, .routing = kBalanced},
    {.name = "skewed", .skewed = true, .dropout = 0.1},
    {.name = "wide", .width = 64, .hidden = 96, .tokens = 65},
};

inline Ref<Module> mixture_of(const MadeDecoder& made) {
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

inline Ref<BlockModule> decoder(const MadeDecoder& made) {
  const auto layer = [&] {
    return Block({Residual(Block({RMSNorm(made.width),
                                  FlashAttentionwithRoPE(made.width, 2, 80, {.causal = true})})),
                  Residual(Block({RMSNorm(made.width), mixture_of(made)}))});
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
inline std::string bits(const Tensor& t) {
  if (!t.defined()) return {};
  const Tensor c = raw::contiguous(t);
  return {static_cast<const char*>(c.data()), size_t(c.numel()) * size_of(c.dtype())};
}

/// What micro-batch i gave: its loss, gradients by key, choices of all routers.
struct MicroBatchResult {
  std::string loss = {};
  std::map<std::string, std::string> gradients = {};
  std::vector<std::string> offsets = {};
};

struct MicroBatch {
  MicroBatch(const MadeDecoder& made, int64_t i)
      : rng(derive_seed(3, "dropout " + std::to_string(i))) {
    Generator ids(100 + uint64_t(i));
    inputs = randint(0, kVocab, {1, made.tokens + i % 3}, ids);
    targets = randint(0, kVocab, inputs.shape(), ids);
  }
  Tensor inputs, targets;
  Generator rng;
};

/// Forward and backward of micro-batch i, whose gradients stay in the leaves.
inline MicroBatchResult run_micro_batch(Module& model, const MadeDecoder& made, int64_t i) {
  MicroBatch batch(made, i);
  Metrics metrics;
  Context ctx{.dtype = made.dtype, .rng = &batch.rng, .metrics = &metrics};
  const Tensor loss = model.loss(batch.inputs, batch.targets, ctx);
  backward(loss);
  MicroBatchResult given{.loss = bits(loss)};
  for (const RoutingRecord& record : metrics.routing) given.offsets.push_back(bits(record.offsets));
  for (const auto& [key, p] : model.named_parameters()) given.gradients[key] = bits(grad(p));
  return given;
}

inline std::vector<MicroBatchResult> references(const MadeDecoder& made, int64_t micro_batches) {
  const auto model = decoder(made);
  std::vector<MicroBatchResult> all;
  for (int64_t i = 0; i < micro_batches; ++i) {
    all.push_back(run_micro_batch(*model, made, i));
    model->zero_grad();
  }
  return all;
}

inline bool is_expert(const std::string& key) { return key.find(".experts.") != std::string::npos; }

}  // namespace olm::test
