#include <olm/nn/generate.h>
#include <olm/nn/models.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// One sequence, token by token, with a key-value cache: a Llama with heads of 64, one key head for
/// two queries, a hidden width of 11/4 and a vocabulary of 16 times the embedding. 8x512 is model L
/// of `olm bench step`. Each token reads every weight but the embedding's.
void add_generate(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t layers = shape[0], d = shape[1], tokens = shape[2];
  require(d % 128 == 0, "--shape: generate wants a width that is a multiple of 128, got ", d);
  const nn::DecoderConfig config{.vocab_size = 16 * d,
                                 .embed_dim = d,
                                 .intermediate_size = 11 * d / 4,
                                 .num_layers = layers,
                                 .num_heads = d / 64,
                                 .num_kv_heads = d / 128,
                                 .max_seq_len = tokens + 1,
                                 .tie_weights = false};
  const int64_t weights = nn::Llama3Model(config)->num_parameters() - config.vocab_size * d;
  const auto prepare = [=](Device device) {
    const auto model = nn::Llama3Model(config);
    nn::init_gpt2(model, layers, {.seed = 1, .dtype = dtype});
    model->to(device);
    return [=]() -> Tensors {
      const std::vector<int32_t> prompt{1};
      nn::generate(model, prompt, {.tokens = tokens, .temperature = 0, .dtype = dtype});
      return {};
    };
  };
  cases.push_back({.name = "generate",
                   .shape = text_of(shape),
                   .pass = "forward",
                   .dtype = dtype,
                   .cost = {.flop = 2.0 * double(weights) * double(tokens),
                            .bytes = double(weights) * double(size_of(dtype)) * double(tokens),
                            .traffic = Traffic::read,
                            .gemm = true,
                            .working_set = double(weights) * double(size_of(dtype)),
                            .tokens = double(tokens)},
                   .prepare = prepare});
}

}  // namespace olm::tools
