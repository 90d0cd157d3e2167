#pragma once
// The matrices and vectors that a decoder is made of, and in which tensors of a form they are.
#include <compare>
#include <map>
#include <string>
#include <vector>

#include <olm/nn/hub/names_internal.h>

namespace olm::nn::hub {

/// A matrix or a vector of the model; `name` is one of those that ModuleName lists.
struct Part {
  std::string name;
  int64_t layer = -1, expert = -1;  ///< -1 where there is none
  bool bias = false;
  auto operator<=>(const Part&) const = default;
  std::string describe() const;  ///< "bias of expert_up of layer 1, expert 3"
};

/// The parts of a decoder that have parameters of their own: a tied head is none.
std::map<Part, Shape> parts_of(const DecoderConfig& config);

/// A tensor of a form, and the parts in it, in order.
struct PartTensor {
  std::string name;
  std::vector<Part> parts = {};
  Layout layout = Layout::rows;
  bool zeros = false;  ///< a bias that the form always has and the model has not
  Shape shape = {};
};
/// The tensors in which a form has these parts: embeddings, layers one by one, the rest. Throws for
/// a tensor of which some parts are there and others are not.
std::vector<PartTensor> tensors_of(const Names& names, const DecoderConfig& config,
                                   const std::map<Part, Shape>& parts);

}  // namespace olm::nn::hub
