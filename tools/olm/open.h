#pragma once
// A model that a command is given, in any form: a run, a folder of Hugging Face's or a GGUF file.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <olm/nn/hub.h>

#include "tools/olm/config.h"

namespace olm::tools {

/// The model at `path` with its tokenizer, for activations of `dtype`. Throws where it has none.
nn::Pretrained open_model(const std::string& path, const Device& device, DType dtype);
/// The tokenizer of such a model, or what lies in a file or folder of a tokenizer.
std::shared_ptr<const nn::Tokenizer> open_tokenizer(const std::string& path);

/// The id that stands before a text: bos where the vendor adds it, else what ends the document
/// before, if the tokenizer has either.
std::optional<int64_t> start_of_text(const nn::Tokenizer& tokenizer);

/// What generation_config.json says of sampling, as keys of [sample]. Of one that says no more than
/// that tokens are drawn, as its reader would.
void take_generation(const nn::GenerationSettings& settings, SampleConfig& config);
/// Every id that ends a text of the model.
std::vector<int32_t> stop_ids(const nn::Pretrained& model);

/// "GGUF file, llama".
std::string kind_text(const nn::PretrainedFacts& facts);
/// True where what lies at `path` came from another program: its configuration is fixed.
bool is_foreign(const std::string& path);
/// What a run that begins with such a model takes over from it: [model], data.tokenizer,
/// train.context and [sample].
void take_pretrained(const std::string& path, const nn::PretrainedFacts& facts, RunConfig& config);

}  // namespace olm::tools
