#include "tools/olm/model.h"

#include <olm/engine/file.h>
#include <olm/engine/utf8.h>
#include <olm/nn/models.h>

namespace olm::tools {

namespace {

/// Llama's rule: two thirds of 4 · embed_dim, up to a multiple of 64.
int64_t llama_hidden(const ModelConfig& c) {
  return c.hidden_dim > 0 ? c.hidden_dim : (c.embed_dim * 8 / 3 + 63) / 64 * 64;
}

/// Throws naming the file and the byte where a text is not UTF-8.
void require_utf8(const nn::Corpus& corpus) {
  for (const auto& file : corpus.files) {
    const size_t at = find_invalid_utf8(file->text());
    if (at == std::string::npos) continue;
    throw FileError(file->path(), ": is not UTF-8: byte ", int(uint8_t(file->text()[at])),
                    " at byte offset ", at, " (a byte tokenizer takes any file)");
  }
}

}  // namespace

nn::Ref<nn::Module> make_model(const ModelConfig& c, int64_t vocab_size) {
  if (c.family == "llama")
    return nn::Llama2Model({.vocab_size = vocab_size,
                            .embed_dim = c.embed_dim,
                            .intermediate_size = llama_hidden(c),
                            .num_layers = c.num_layers,
                            .num_heads = c.num_heads,
                            .num_kv_heads = c.num_kv_heads > 0 ? c.num_kv_heads : c.num_heads,
                            .max_seq_len = c.max_seq_len,
                            .rope_theta = c.rope_base,
                            .dropout = c.dropout,
                            .tie_weights = c.tie_weights});
  return nn::GPT2Model({.vocab_size = vocab_size,
                        .embed_dim = c.embed_dim,
                        .num_layers = c.num_layers,
                        .num_heads = c.num_heads,
                        .max_seq_len = c.max_seq_len,
                        .hidden_dim = c.hidden_dim > 0 ? std::optional(c.hidden_dim) : std::nullopt,
                        .dropout = c.dropout,
                        .tie_weights = c.tie_weights,
                        .bias = c.bias});
}

std::unique_ptr<nn::Optimizer> make_optimizer(const OptimConfig& c, nn::Module& model) {
  std::vector<nn::ParameterGroup> groups = nn::decay_groups(model.parameters(), c.weight_decay);
  if (c.optimizer == "lion")
    return std::make_unique<nn::Lion>(
        std::move(groups),
        nn::LionOptions{.lr = c.lr, .betas = {c.beta1, c.beta2}, .clip_norm = c.clip_norm});
  if (c.optimizer == "sgd")
    return std::make_unique<nn::SGD>(
        std::move(groups),
        nn::SGDOptions{.lr = c.lr, .momentum = c.beta1, .clip_norm = c.clip_norm});
  return std::make_unique<nn::AdamW>(
      std::move(groups),
      nn::AdamWOptions{
          .lr = c.lr, .betas = {c.beta1, c.beta2}, .eps = c.eps, .clip_norm = c.clip_norm});
}

std::shared_ptr<const nn::Tokenizer> make_tokenizer(const std::string& spec,
                                                    const nn::Corpus& corpus) {
  const bool is_path = spec.find('/') != std::string::npos || spec.ends_with(".json");
  if (is_path) return nn::load_tokenizer(spec);
  nn::require_tokenizer_spec(spec);
  try {
    if (spec != "byte") require_utf8(corpus);
    return nn::train_tokenizer(spec, corpus.texts());
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(corpus.path, ": ", e.what());
  }
}

std::vector<int32_t> prompt_ids(const nn::Tokenizer& tokenizer, const std::string& prompt) {
  try {
    std::vector<int32_t> ids = tokenizer.encode(prompt);
    if (!ids.empty()) return ids;
  } catch (const Error& e) {
    if (prompt != "\n") fail("sample.prompt: ", e.what());
  }
  return {0};
}

double flops_per_token(const ModelConfig& c, nn::Module& model) {
  // What only looks rows up costs nothing: positions always, the embedding where it is not the
  // head.
  double multiplied = double(model.num_parameters());
  model.for_each_parameter([&](const std::string& key, nn::Parameter& p) {
    const bool positions = key.ends_with("pos_embedding.weight");
    const bool embedding = key.ends_with("embedding.weight") && !positions;
    if (positions || (embedding && !c.tie_weights)) multiplied -= double(p.shape().numel());
  });
  const double attention = double(c.num_layers * c.embed_dim) * double(c.max_seq_len);
  return 6 * multiplied + 6 * attention;
}

}  // namespace olm::tools
