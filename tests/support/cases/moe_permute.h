#pragma once
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/cumsum.h>
#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/moe_permute.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/sort.h>
#include <olm/autograd/ops/view.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// K different experts for each of `tokens`, of E.
inline Tensor chosen_experts(Generator& g, int64_t tokens, int64_t k, int64_t experts) {
  const Tensor order = topk(randn({tokens, experts}, g), k).indices;
  return raw::cast(order, i32);
}

/// x [n, 7] or [2, n, 7] in the order of two of five experts.
inline OpCase moe_permute_case() {
  return {.name = "moe_permute",
          .shape = {-1, 7},
          .inputs =
              [](Generator& g, const Shape& x) {
                return Tensors{randn(x, g), chosen_experts(g, x[0], 2, 5)};
              },
          .op = [](const Tensors& in) { return moe_permute(in[0], moe_sort(in[1], 5)); },
          .composition =
              [](const Tensors& in) {
                const Tensor pairs = argsort(reshape(in[1], {-1}));
                std::vector<int64_t> tokens = to_host<int64_t>(pairs);
                for (int64_t& t : tokens) t /= 2;
                return index_select(in[0], 0, from_host(tokens, {int64_t(tokens.size())}));
              },
          .reduction = [](int64_t) { return 2.0; },
          .parallel = {5000, 70},
          .cost =
              [](const Shape& s, DType dtype) {
                const double bytes = double(s.numel()) * double(size_of(dtype));
                return Costs{.forward = {.bytes = 3 * bytes}, .both = {.bytes = 6 * bytes}};
              }};
}

/// n tokens, K of E experts; ids of `dtype`.
inline OpCase moe_sort_case(int64_t k, int64_t experts, DType dtype) {
  return {.name = "moe_sort, " + std::to_string(experts) + " experts",
          .shape = {-1, k},
          .inputs =
              [=](Generator& g, const Shape& shape) {
                return Tensors{raw::cast(chosen_experts(g, shape[0], k, experts), dtype)};
              },
          .op =
              [=](const Tensors& in) {
                const MoEPermutation p = moe_sort(in[0], experts);
                return Tensors{p.rows, p.positions, p.offsets};
              },
          .composition =
              [=](const Tensors& in) {
                const Tensor rows = argsort(reshape(in[0], {-1}));
                const Tensor hits = one_hot(reshape(in[0], {-1}), experts, f64);
                const Tensor ends = cumsum(sum(hits, 0), 0);
                std::vector<double> offsets = to_host<double>(ends);
                offsets.insert(offsets.begin(), 0);
                return Tensors{rows, reshape(argsort(rows), in[0].shape()),
                               from_host(offsets, {experts + 1})};
              },
          .unasked = {{Question::gradients, kNotDifferentiable}}};
}

inline OpCases moe_permute_cases() {
  return {moe_permute_case(), moe_sort_case(2, 5, i32), moe_sort_case(3, 64, i64),
          moe_sort_case(1, 1, i32)};
}

}  // namespace olm::test
