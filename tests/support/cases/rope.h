#pragma once
#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/rope.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/view.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Tables of `positions` by rotated / 2 angles.
inline RopeTables rope_tables(int64_t positions, int64_t rotated, DType dtype = f32) {
  std::vector<double> cos, sin;
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < rotated / 2; ++i) {
      const double angle = double(p) * std::pow(10000.0, -2.0 * double(i) / double(rotated));
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  const Shape shape{positions, rotated / 2};
  return {raw::cast(from_host(cos, shape), dtype), raw::cast(from_host(sin, shape), dtype)};
}

/// RoPE as it is defined, of x [B,T,H,Dh] whose first token stands at `offset`.
inline Tensor rope_of_small_ops(const Tensor& x, const RopeTables& tables, int64_t offset,
                                RopePairing pairing) {
  const int64_t rotated = 2 * tables.cos.size(1);
  const auto angles = [&](const Tensor& table) {  // [T,1,r/2]
    return unsqueeze(slice(table, 0, offset, offset + x.size(1)), 1);
  };
  const bool halves = pairing == RopePairing::halves;
  const int64_t half = rotated / 2;
  const Tensor a = halves ? slice(x, -1, 0, half) : slice(x, -1, 0, rotated, 2);
  const Tensor b = halves ? slice(x, -1, half, rotated) : slice(x, -1, 1, rotated, 2);
  const Tensor cos = angles(tables.cos), sin = angles(tables.sin);
  const Tensor m = a * cos - b * sin, n = a * sin + b * cos, rest = slice(x, -1, rotated);
  return halves ? cat({m, n, rest}, -1) : cat({flatten(stack({m, n}, -1), 3, 4), rest}, -1);
}

/// The shape is [B,H,T,Dh]; the last `unrotated` dimensions of a head are passed on. Inputs are x
/// [B,T,H,Dh] and the tables.
inline OpCase rope_case(int64_t unrotated = 0, int64_t offset = 0,
                        RopePairing pairing = RopePairing::interleaved) {
  return {.name = pairing == RopePairing::halves ? "rope by halves" : "rope",
          .shape = {2, 3, -1, 8},
          .inputs =
              [=](Generator& g, const Shape& s) {
                const RopeTables tables = rope_tables(s[2] + offset, s[3] - unrotated);
                return Tensors{randn({s[0], s[2], s[1], s[3]}, g), tables.cos, tables.sin};
              },
          .op =
              [=](const Tensors& in) {
                return rope(in[0], {in[1], in[2]}, {.offset = offset, .pairing = pairing});
              },
          .composition =
              [=](const Tensors& in) {
                return rope_of_small_ops(in[0], {in[1], in[2]}, offset, pairing);
              },
          .fixed = {1, 2},
          .parameters = {1, 2},
          .reduction = [](int64_t) { return 2.0; },
          .cancelling = 1,
          .sizes = {0, 1, 31, 130},
          .parallel = {2, 4, 100, 64},
          .cost =
              [](const Shape& shape, DType dtype) {
                const double n = double(shape.numel()), bytes = n * double(size_of(dtype));
                return Costs{.forward = {.flop = 3 * n, .bytes = 2 * bytes},
                             .both = {.flop = 6 * n, .bytes = 4 * bytes}};
              }};
}

/// Heads that are rotated whole, in part or not at all, and wide ones, which are rotated in pieces.
inline OpCases rope_cases() {
  OpCases all;
  for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::halves})
    for (const auto& [dim, unrotated] : {std::pair{8, 0}, {34, 4}, {7, 3}, {5, 5}, {600, 0}}) {
      all.push_back(rope_case(unrotated, 2, pairing));
      all.back().shape[3] = dim;
      if (dim == 600) all.back().sizes = {3}, all.back().gradient_sizes = {1};
    }
  return all;
}

}  // namespace olm::test
