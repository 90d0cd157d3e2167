#pragma once
// From configuration to tokenizer and optimizer.
#include <memory>
#include <string>

#include <olm/nn/data.h>
#include <olm/nn/module.h>
#include <olm/nn/optim.h>
#include <olm/nn/text.h>

#include "tools/olm/config.h"

namespace olm::tools {

/// AdamW, Muon, Lion or SGD over the parameters; vectors are not decayed.
std::unique_ptr<nn::Optimizer> make_optimizer(const OptimConfig& config, nn::Module& model);
/// f32 numbers that it keeps for each weight, on average.
double moments_per_weight(const nn::Optimizer& optimizer);
/// Learned from the corpus, or read where the spec is a path.
std::shared_ptr<const nn::Tokenizer> make_tokenizer(const std::string& spec,
                                                    const nn::Corpus& corpus);
/// The ids of a prompt, bos included where the tokenizer adds it; what has none, as a newline that
/// the tokenizer does not know, becomes id 0. Special tokens in the text are text unless asked for.
/// Errors name `where`.
std::vector<int32_t> prompt_ids(const nn::Tokenizer& tokenizer, const std::string& prompt,
                                const std::string& where = "sample.prompt",
                                bool with_special_tokens = false);

}  // namespace olm::tools
