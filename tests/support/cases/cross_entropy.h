#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/view.h>
#include <olm/autograd/ops/where.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Cross-entropy as it is defined. Targets that do not count are classes too here.
inline Tensor cross_entropy_of_small_ops(const Tensor& logits, const Tensor& targets,
                                         const CrossEntropyOptions& o) {
  const Tensor lse = logsumexp(logits, -1);
  const Tensor chosen = squeeze(gather(logits, -1, unsqueeze(targets, -1)), -1);
  const double s = o.label_smoothing;
  Tensor loss = (lse - chosen) * (1 - s) + square(lse) * o.z_loss;
  if (s > 0) loss = loss + (lse - mean(logits, -1)) * s;
  loss = where(ne(targets, double(o.ignore_index)), loss, 0);
  if (o.reduction == Reduction::none) return loss;
  const auto count = double(count_targets(targets, o.ignore_index));
  return o.reduction == Reduction::sum ? sum(loss) : sum(loss) / std::max(count, 1.0);
}

/// Logits [.., classes] and a target for each row.
inline OpCase cross_entropy_case(const CrossEntropyOptions& o = {}) {
  return {
      .name = "cross_entropy",
      .shape = {2, -1, 11},
      .inputs =
          [](Generator& g, const Shape& shape) {
            return Tensors{randn(shape, g), randint(0, shape[shape.rank() - 1], leading(shape), g)};
          },
      .op = [=](const Tensors& in) { return cross_entropy(in[0], in[1], o); },
      .composition = [=](const Tensors& in) { return cross_entropy_of_small_ops(in[0], in[1], o); },
      .reduction = [](int64_t n) { return double(2 * n + 11); },
      .cancelling = o.reduction == Reduction::none ? 1.0 : 0.0,
      .parallel = {300, 257},
      .cost =
          [](const Shape& shape, DType dtype) {
            const double bytes = double(shape.numel()) * double(size_of(dtype));
            return Costs{.forward = {.bytes = bytes, .traffic = Traffic::read},
                         .both = {.bytes = 3 * bytes}};
          }};
}

/// Every reduction, with all terms and with some targets ignored; and n classes instead of n rows.
inline OpCases cross_entropy_cases() {
  OpCases all;
  for (const Reduction r : {Reduction::mean, Reduction::sum, Reduction::none}) {
    all.push_back(cross_entropy_case(
        {.ignore_index = 1, .label_smoothing = 0.1, .z_loss = 0.05, .reduction = r}));
    // The gradients of the mean of thousands of rows are below what f16 holds.
    if (r == Reduction::mean) all.back().sizes.pop_back();
  }
  OpCase classes = cross_entropy_case({.reduction = Reduction::sum});
  classes.name = "cross_entropy of n classes";
  classes.shape = {5, -1};
  classes.reduction = [](int64_t n) { return double(n); };
  classes.cancelling = classes.gradient_cancelling = 0.1;
  classes.sizes = {1, 31, 33, 4099};
  all.push_back(classes);
  return all;
}

}  // namespace olm::test
