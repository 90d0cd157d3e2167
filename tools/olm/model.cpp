#include "tools/olm/model.h"

#include <olm/engine/file.h>
#include <olm/engine/utf8.h>

#include "tools/olm/open.h"

namespace olm::tools {

namespace {

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

std::unique_ptr<nn::Optimizer> make_optimizer(const OptimConfig& c, nn::Module& model) {
  if (c.optimizer == "muon")
    return std::make_unique<nn::Muon>(nn::muon_groups(model, c.weight_decay),
                                      nn::MuonOptions{.lr = c.lr,
                                                      .momentum = c.momentum,
                                                      .betas = {c.beta1, c.beta2},
                                                      .eps = c.eps,
                                                      .clip_norm = c.clip_norm});
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

double moments_per_weight(const nn::Optimizer& optimizer) {
  double weights = 0, moments = 0;
  const Tensors parameters = optimizer.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const double n = double(parameters[i].numel());
    weights += n;
    moments += n * double(optimizer.update_of(int64_t(i)).moments);
  }
  return weights > 0 ? moments / weights : 0;
}

std::shared_ptr<const nn::Tokenizer> make_tokenizer(const std::string& spec,
                                                    const nn::Corpus& corpus) {
  const bool is_path = spec.find('/') != std::string::npos || spec.ends_with(".json");
  if (is_path) return open_tokenizer(spec);
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

std::vector<int32_t> prompt_ids(const nn::Tokenizer& tokenizer, const std::string& prompt,
                                const std::string& where, bool with_special_tokens) {
  const nn::SpecialTokens special = tokenizer.special();
  try {
    std::vector<int32_t> ids = tokenizer.encode(
        prompt, {.add_special_tokens = true, .parse_special_tokens = with_special_tokens});
    // The text goes on, so that what ends it has no place.
    if (special.adds_eos && !ids.empty() && special.eos == ids.back()) ids.pop_back();
    if (!ids.empty()) return ids;
  } catch (const Error& e) {
    if (prompt != "\n") fail(where, ": ", e.what());
  }
  return {0};
}

}  // namespace olm::tools
