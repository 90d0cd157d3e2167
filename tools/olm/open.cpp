#include "tools/olm/open.h"

#include <algorithm>
#include <filesystem>

#include <olm/engine/file.h>

namespace olm::tools {

namespace {

/// Tokens of a training sequence where a vendor's model takes more: its whole context is often
/// more than a machine's memory.
constexpr int64_t kMaxTrainingContext = 1024;

std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

}  // namespace

nn::Pretrained open_model(const std::string& path, const Device& device, DType dtype) {
  // A run's own parameters are f32; a vendor's take half the memory where activations do.
  const bool own = nn::form_of(path) == nn::ModelForm::run;
  nn::Pretrained model = nn::load_pretrained(path, {.device = device, .dtype = own ? f32 : dtype});
  if (!model.tokenizer)
    throw FileError(path, ": holds a model without a tokenizer, one was wanted");
  return model;
}

std::shared_ptr<const nn::Tokenizer> open_tokenizer(const std::string& path) {
  return nn::load_tokenizer(path);
}

std::optional<int64_t> start_of_text(const nn::Tokenizer& tokenizer) {
  const nn::SpecialTokens special = tokenizer.special();
  if (special.adds_bos && special.bos) return *special.bos;
  if (const auto id = tokenizer.eot_id()) return *id;
  if (special.eos) return *special.eos;
  return {};
}

void take_generation(const nn::GenerationSettings& settings, SampleConfig& config) {
  nn::GenerateOptions& o = config.options;
  if (settings.do_sample == true) {  // the reader's own values where the file has none
    o.temperature = 1;
    o.top_k = 50;
  }
  if (settings.temperature) o.temperature = *settings.temperature;
  if (settings.top_k) o.top_k = *settings.top_k;
  if (settings.top_p) o.top_p = *settings.top_p;
  if (settings.min_p) o.min_p = *settings.min_p;
  if (settings.repetition_penalty) o.repetition_penalty = *settings.repetition_penalty;
  if (settings.do_sample == false) o.temperature = 0;
}

std::vector<int32_t> stop_ids(const nn::Pretrained& model) {
  std::vector<int32_t> ids = model.generation.stop;
  for (const auto& id : {model.tokenizer->eot_id(), model.tokenizer->special().eos})
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  return ids;
}

std::string kind_text(const nn::PretrainedFacts& facts) {
  const std::string own = facts.config ? facts.config->family : "a model of one's own";
  return std::string(nn::name_of(facts.form)) + ", " +
         (facts.vendor_family.empty() ? own : facts.vendor_family);
}

bool is_foreign(const std::string& path) {
  return nn::form_of(path) != nn::ModelForm::run || folder_exists(path + "/pretrained");
}

void take_pretrained(const std::string& path, const nn::PretrainedFacts& facts, RunConfig& config) {
  if (!facts.config || !facts.tokenizer)
    throw FileError(path, ": holds no ", facts.config ? "tokenizer" : "decoder",
                    ", with which a training could begin");
  config.model = {.config = *facts.config};
  const int64_t ids = facts.tokenizer->vocab_size(), rows = facts.config->vocab_size;
  if (rows != ids) config.model.padded_vocab_size = rows;
  config.data.tokenizer = absolute(path);
  if (facts.form == nn::ModelForm::run) config.data.tokenizer += "/tokenizer.json";
  config.train.context = std::min(kMaxTrainingContext, facts.config->max_seq_len);
  take_generation(facts.generation, config.sample);
}

}  // namespace olm::tools
