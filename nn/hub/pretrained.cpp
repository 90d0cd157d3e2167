// What users call: models loaded, saved and converted.
#include <olm/engine/raw.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/model_io.h>

namespace olm::nn {

namespace {

/// The tensors of a model of another program under this library's keys.
std::map<std::string, Tensor> tensors_of(const hub::StoredModel& stored,
                                         const LoadPretrainedOptions& options) {
  std::map<std::string, Tensor> tensors;
  for (const hub::PlannedTensor& planned : hub::plan(stored, hub::names_here(*stored.config))) {
    const Tensor made = planned.make();
    const Tensor cast = raw::cast(made, options.dtype.value_or(made.dtype()));
    const Tensor moved = raw::to(cast, options.device);
    // What was converted or moved is apart from the file's pages.
    if (moved.impl().storage != made.impl().storage)
      for (const std::string& source : planned.sources) stored.tensors->release(source);
    tensors.emplace(planned.name, moved);
  }
  return tensors;
}

Ref<Module> model_of(const hub::StoredModel& stored, const LoadPretrainedOptions& options) {
  if (stored.form == ModelForm::run) {
    const Ref<Module> model = load(stored.path, options.device);
    if (options.dtype) model->to(*options.dtype);
    return model;
  }
  const Ref<Module> model = DecoderModel(*stored.config);
  model->load_state_dict(tensors_of(stored, options), {.alias = true});
  return model;
}

/// The tokenizer's end of text ends a text, whatever the configurations name.
void add_end_of_text(Pretrained& model) {
  const auto eos = model.tokenizer ? model.tokenizer->special().eos : std::nullopt;
  std::vector<int32_t>& stop = model.generation.stop;
  if (eos && std::find(stop.begin(), stop.end(), *eos) == stop.end()) stop.push_back(*eos);
}

}  // namespace

Pretrained load_pretrained(const std::string& path, const LoadPretrainedOptions& options) {
  require_device(options.device);
  hub::StoredModel stored = hub::open_model(path);
  Pretrained result;
  result.model = model_of(stored, options);
  result.config = std::move(stored.config);
  result.tokenizer = std::move(stored.tokenizer);
  result.generation = std::move(stored.generation);
  add_end_of_text(result);
  result.vendor_family = std::move(stored.vendor_family);
  result.vendor = std::move(stored.vendor);
  result.not_understood = std::move(stored.not_understood);
  return result;
}

PretrainedFacts inspect_pretrained(const std::string& path) {
  hub::StoredModel stored = hub::open_model(path);
  PretrainedFacts facts{.form = stored.form};
  for (const hub::StoredTensor& t : stored.tensors->entries())
    facts.tensors.push_back({.name = t.name, .type = t.type, .shape = t.shape, .bytes = t.bytes});
  facts.config = std::move(stored.config);
  facts.tokenizer = std::move(stored.tokenizer);
  facts.generation = std::move(stored.generation);
  facts.vendor_family = std::move(stored.vendor_family);
  facts.vendor = std::move(stored.vendor);
  facts.not_understood = std::move(stored.not_understood);
  return facts;
}

std::string PretrainedFacts::main_type() const {
  std::map<std::string, int64_t> numbers;
  for (const TensorFacts& t : tensors) numbers[t.type] += t.shape.numel();
  return hub::largest_of(numbers);
}

std::vector<std::string> save_pretrained(const Pretrained& model, const std::string& folder,
                                         const SaveOptions& options) {
  return hub::write_hugging_face(hub::stored(model), folder, options);
}

void convert_to_run(const std::string& from, const std::string& to, const SaveOptions& options) {
  hub::write_run(hub::open_model(from), to, options);
}

std::vector<std::string> convert_to_hugging_face(const std::string& from, const std::string& to,
                                                 const SaveOptions& options) {
  return hub::write_hugging_face(hub::open_model(from), to, options);
}

}  // namespace olm::nn
