#pragma once
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/grouped_gemm.h>
#include <olm/autograd/ops/select.h>

#include <tests/support/cases/linear.h>

namespace olm::test {

/// Rows of groups of about equal size.
inline Tensor even_offsets(int64_t rows, int64_t groups) {
  std::vector<int32_t> offsets;
  for (int64_t g = 0; g <= groups; ++g) offsets.push_back(int32_t(g * rows / groups));
  return from_host(offsets, {groups + 1});
}

/// Group by group by matmul; inputs are x, offsets, weights, and biases if `biased`.
inline Tensor grouped_by_ops(const Tensors& in, int64_t groups, bool biased,
                             Activation activation) {
  const std::vector<int64_t> offsets = to_host<int64_t>(in[1]);
  // No rows, so that there is a result where no group has any.
  Tensors parts{matmul(slice(in[0], 0, 0, 0), transpose(detach(in[2]), 0, 1))};
  for (int64_t g = 0; g < groups; ++g) {
    const auto i = size_t(g);
    if (offsets[i] == offsets[i + 1]) continue;
    Tensor z = matmul(slice(in[0], 0, offsets[i], offsets[i + 1]), transpose(in[2 + i], 0, 1));
    if (biased) z = z + in[2 + size_t(groups) + i];
    parts.push_back(activated(activation, z));
  }
  return cat(parts);
}

/// x [n, in] in groups, weights [out, in].
inline OpCase grouped_linear_case(int64_t groups, int64_t out, bool biased, Activation activation) {
  std::vector<size_t> parameters;
  for (int64_t i = 0; i < groups * (biased ? 2 : 1); ++i) parameters.push_back(size_t(2 + i));
  return {.name = "grouped_linear of " + std::to_string(groups) + ", " + name_of(activation),
          .shape = {-1, 7},
          .inputs =
              [=](Generator& g, const Shape& x) {
                Tensors inputs{randn(x, g), even_offsets(x[0], groups)};
                for (int64_t e = 0; e < groups; ++e) inputs.push_back(randn({out, x[1]}, g));
                for (int64_t e = 0; biased && e < groups; ++e) inputs.push_back(randn({out}, g));
                return inputs;
              },
          .op =
              [=](const Tensors& in) {
                const auto weights = in.begin() + 2, biases = weights + groups;
                return grouped_linear(in[0], Tensors(weights, biases), Tensors(biases, in.end()),
                                      in[1], activation);
              },
          .composition =
              [=](const Tensors& in) { return grouped_by_ops(in, groups, biased, activation); },
          .parameters = parameters,
          .reduction = [=](int64_t n) { return double(n + out); },
          .cancelling = 1,
          .sizes = {0, 1, 31, 33, 257},
          .parallel = {700, 90},
          .cost =
              [=](const Shape& s, DType dtype) {
                const double flop = 2.0 * double(s.numel()) * double(out);
                const double rows = double(s[0] * (s[1] + out)) * double(size_of(dtype));
                const double bytes = rows + double(groups * s[1] * out) * sizeof(float);
                return Costs{.forward = {.flop = flop, .bytes = bytes, .gemm = true},
                             .both = {.flop = 3 * flop, .bytes = 3 * bytes, .gemm = true}};
              }};
}

inline OpCases grouped_gemm_cases() {
  return {grouped_linear_case(3, 9, true, Activation::gelu),
          grouped_linear_case(4, 40, false, Activation::none),
          grouped_linear_case(1, 5, true, Activation::none),
          grouped_linear_case(2, 16, false, Activation::silu)};
}

}  // namespace olm::test
