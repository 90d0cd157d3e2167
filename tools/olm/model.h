#pragma once
// From configuration to model, tokenizer and optimizer.
#include <memory>
#include <string>

#include <olm/nn/data.h>
#include <olm/nn/module.h>
#include <olm/nn/optim.h>
#include <olm/nn/text.h>

#include "tools/olm/config.h"

namespace olm::tools {

/// The model of a configuration, not filled.
nn::Ref<nn::Module> make_model(const ModelConfig& config, int64_t vocab_size);
/// AdamW, Lion or SGD over the parameters; vectors are not decayed.
std::unique_ptr<nn::Optimizer> make_optimizer(const OptimConfig& config, nn::Module& model);
/// Learned from the corpus, or read where the spec is a path.
std::shared_ptr<const nn::Tokenizer> make_tokenizer(const std::string& spec,
                                                    const nn::Corpus& corpus);
/// The ids of a prompt; what has none, as a newline that the tokenizer does not know, becomes id 0.
std::vector<int32_t> prompt_ids(const nn::Tokenizer& tokenizer, const std::string& prompt);
/// Floating-point operations of forward and backward per token, attention to half of the context
/// included.
double flops_per_token(const ModelConfig& config, nn::Module& model);

}  // namespace olm::tools
