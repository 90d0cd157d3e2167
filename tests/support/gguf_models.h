#pragma once
// Files of llama.cpp's converter, changed copies of them, and small models of random weights.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <olm/autograd/tape.h>
#include <olm/engine/gguf.h>
#include <olm/engine/random.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub.h>
#include <olm/nn/models.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

namespace olm::test {

using namespace olm::nn;

inline std::string made(const std::string& name) { return fixture("hub_gguf/" + name + ".gguf"); }

inline std::vector<float> logits(Module& model, const Tensor& ids) {
  NoGrad guard;
  Context ctx;
  return to_host<float>(model.forward(ids, ctx));
}

inline double largest(const std::vector<float>& values) {
  double result = 0;
  for (const float x : values) result = std::max(result, std::abs(double(x)));
  return result;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double result = 0;
  for (size_t i = 0; i < a.size(); ++i)
    result = std::max(result, std::abs(double(a[i]) - double(b[i])));
  return result;
}

/// Largest difference of logits from transformers', over its largest logit.
inline double error_of(const std::string& path, const std::string& name) {
  const SafetensorsFile oracle =
      SafetensorsFile::open(fixture("hub_gguf/" + name + ".safetensors"));
  const Pretrained model = load_pretrained(path, {.dtype = f32});
  const std::vector<float> wanted = to_host<float>(oracle.tensor("logits"));
  return largest_difference(logits(*model.model, oracle.tensor("ids")), wanted) / largest(wanted);
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A file with the metadata and tensors of another, and changes.
struct Copy {
  const GgufFile from;
  GgufWriter to;
  explicit Copy(const std::string& name) : from(GgufFile::open(made(name))) {
    for (const std::string& key : from.keys()) to.set(key, from.at(key));
  }
  std::string write(const TempFolder& folder, const std::string& without = "") {
    for (const GgufEntry& e : from.entries())
      if (e.name != without)
        to.add(e.name, e.type, e.shape, [this, name = e.name] { return from.tensor(name); });
    to.write(folder / "copy.gguf");
    return folder / "copy.gguf";
  }
};

inline Pretrained drawn(const DecoderConfig& config) {
  Pretrained result;
  result.model = DecoderModel(config);
  result.config = config.completed();
  Generator rng(5);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : result.model->named_parameters())
    tensors.emplace_back(name, randn(tensor.shape(), rng));
  result.model->load_state_dict(tensors);
  return result;
}

}  // namespace olm::test
