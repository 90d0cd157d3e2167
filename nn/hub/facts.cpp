// What a model's files say.
#include <algorithm>
#include <map>

#include <olm/nn/hub/stored_internal.h>

namespace olm::nn {

std::string PretrainedFacts::main_type() const {
  std::map<std::string, int64_t> numbers;
  for (const TensorFacts& tensor : tensors) numbers[tensor.type] += tensor.shape.numel();
  const auto most =
      std::max_element(numbers.begin(), numbers.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == numbers.end() ? "" : most->first;
}

PretrainedFacts inspect_pretrained(const std::string& path) {
  hub::StoredModel model = hub::open_model(path);
  PretrainedFacts facts{.form = model.form,
                        .config = std::move(model.config),
                        .tokenizer = std::move(model.tokenizer),
                        .generation = std::move(model.generation),
                        .vendor_family = std::move(model.vendor_family),
                        .vendor = std::move(model.vendor),
                        .not_understood = std::move(model.not_understood)};
  for (const hub::StoredTensor& tensor : model.tensors->entries())
    facts.tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes});
  return facts;
}

}  // namespace olm::nn
