#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/moe_combine.h>

#include <tests/support/cases/moe_permute.h>

namespace olm::test {

/// y [n · 3, 7] of three of five experts, weights [n, 3], residual [n, 7] or none.
inline OpCase moe_combine_case(bool residual) {
  constexpr int64_t kTopK = 3, kExperts = 5;
  return {.name = residual ? "moe_combine with a residual" : "moe_combine",
          .shape = {-1, 7},
          .inputs =
              [=](Generator& g, const Shape& s) {
                Tensors inputs{randn({s[0] * kTopK, s[1]}, g), uniform({s[0], kTopK}, g),
                               chosen_experts(g, s[0], kTopK, kExperts)};
                if (residual) inputs.push_back(randn(s, g));
                return inputs;
              },
          .op =
              [=](const Tensors& in) {
                const MoEPermutation p = moe_sort(in[2], kExperts);
                return moe_combine(in[0], in[1], p, residual ? in[3] : Tensor());
              },
          .composition =
              [=](const Tensors& in) {
                const MoEPermutation p = moe_sort(in[2], kExperts);
                const Tensor rows = index_select(in[0], 0, raw::view(p.positions, {-1}));
                const int64_t tokens = in[1].size(0), cols = in[0].size(1);
                const Tensor w = reshape(in[1], {tokens, kTopK, 1});
                const Tensor y = sum(view(rows, {tokens, kTopK, cols}) * w, 1);
                return residual ? y + in[3] : y;
              },
          .parameters = {1},
          .reduction = [](int64_t) { return 8.0; },
          .cancelling = 1,
          .parallel = {5000, 70},
          .cost =
              [](const Shape& s, DType dtype) {
                const double bytes = double(s.numel()) * double(size_of(dtype));
                return Costs{.forward = {.bytes = 4 * bytes}, .both = {.bytes = 11 * bytes}};
              }};
}

inline OpCases moe_combine_cases() { return {moe_combine_case(false), moe_combine_case(true)}; }

}  // namespace olm::test
