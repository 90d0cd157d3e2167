#pragma once
// Gradients of vendors' models, as the oracles of tests/fixtures/hub have them.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <olm/autograd/tape.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/stored_internal.h>

namespace olm::test {

/// |a - b| / |b|.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double apart = 0, length = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    apart += (a[i] - b[i]) * (a[i] - b[i]);
    length += b[i] * b[i];
  }
  return std::sqrt(apart / std::max(length, 1e-30));
}

/// A vector itself; of a matrix g the products g·u and uᵀ·g with u[i] = cos(i).
inline std::vector<double> projected(const Tensor& g) {
  const std::vector<double> values = to_host<double>(g);
  if (g.rank() < 2) return values;
  const int64_t rows = g.size(0), columns = g.size(1);
  std::vector<double> result(size_t(rows + columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const double value = values[size_t(r * columns + c)];
      result[size_t(r)] += value * std::cos(double(c));
      result[size_t(rows + c)] += value * std::cos(double(r));
    }
  return result;
}

/// How far the gradients of a model's parameters are from the oracle's, by its names: they go the
/// way of the weights.
inline std::map<std::string, double> gradient_errors(const nn::Pretrained& model,
                                                     const SafetensorsFile& oracle) {
  nn::hub::StoredModel own = nn::hub::stored(model);
  std::vector<nn::NamedTensor> gradients;
  for (const nn::hub::StoredTensor& t : own.tensors->entries())
    gradients.emplace_back(t.name, grad(model.model->parameter(t.name).tensor()));
  own.tensors = nn::hub::tensors_in_memory(gradients);
  nn::hub::Names theirs = nn::hub::family_of(model.vendor_family).hugging_face;
  theirs.norm_offset = own.names.norm_offset;  // gradients have none
  std::map<std::string, double> errors;
  for (const nn::hub::PlannedTensor& planned : nn::hub::plan(own, theirs)) {
    std::string key = "grad/" + planned.name;
    // Former files of GPT-2 leave the prefix out.
    if (!oracle.contains(key) && planned.name.starts_with(theirs.prefix))
      key = "grad/" + planned.name.substr(theirs.prefix.size());
    errors[key] = distance(projected(planned.make()), to_host<double>(oracle.tensor(key)));
  }
  return errors;
}

}  // namespace olm::test
