#include <cmath>

#include <olm/autograd/ops.h>

#include "tests/support/op_case.h"
#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

constexpr int64_t kTopK = 2;

/// A tensor of random numbers, of a size at which those of a network neither fade nor grow.
Tensor weight(Generator& g, int64_t rows, int64_t cols) {
  const Tensor w = randn({rows, cols}, g);
  raw::scale_(w, 1 / std::sqrt(double(cols)));
  return w;
}

/// A SwiGLU network on tokens [rows, d].
test::OpCase dense_case(int64_t d, int64_t hidden) {
  return {.name = "dense twin of moe",
          .inputs =
              [=](Generator& g, const Shape& x) {
                return Tensors{randn(x, g), weight(g, 2 * hidden, d), weight(g, d, hidden)};
              },
          .op = [](const Tensors& in) { return linear(swiglu(linear(in[0], in[1])), in[2]); },
          .parameters = {1, 2}};
}

/// A mixture of SwiGLU experts, of which each token takes two. Logits are computed in acc_dtype, so
/// that the choice is that of f64.
Tensor mixture(const Tensors& in, int64_t experts) {
  const auto up = in.begin() + 2, down = up + experts;
  const Tensor wide = cast(in[0], acc_dtype(in[0].dtype()));
  const MoERouting r = moe_route(linear(wide, in[1]), {.top_k = kTopK});
  const MoEPermutation p = moe_sort(r.experts, experts);
  const Tensor z = grouped_linear(moe_permute(in[0], p), Tensors(up, down), {}, p.offsets);
  const Tensor y = grouped_linear(swiglu(z), Tensors(down, in.end()), {}, p.offsets);
  return moe_combine(y, r.weights, p);
}

}  // namespace

/// A whole layer: router, sort, experts, combination, beside a dense network of as many operations
/// for each token, so of a hidden width of `hidden` against hidden / 2 of each expert.
void add_moe(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], d = shape[1], hidden = shape[2], experts = shape[3];
  require(hidden % kTopK == 0 && experts >= kTopK,
          "--shape: moe wants an even hidden width and two experts or more, got ", text_of(shape));
  test::OpCase moe{.name = "moe"};
  moe.inputs = [=](Generator& g, const Shape& x) {
    Tensors inputs{randn(x, g), weight(g, experts, d)};
    for (int64_t e = 0; e < experts; ++e) inputs.push_back(weight(g, 2 * hidden / kTopK, d));
    for (int64_t e = 0; e < experts; ++e) inputs.push_back(weight(g, d, hidden / kTopK));
    return inputs;
  };
  moe.op = [=](const Tensors& in) { return mixture(in, experts); };
  for (size_t i = 1; i < size_t(2 + 2 * experts); ++i) moe.parameters.push_back(i);
  const auto cost_with = [=](int64_t active, const Shape& x, DType t) {
    const double flop = 2.0 * double(rows * hidden) * double(3 * d);
    const double weights = 3.0 * double(active * d * hidden) * sizeof(float);
    const double bytes = 2 * double(x.numel()) * double(size_of(t)) + weights;
    return test::Costs{.forward = {.flop = flop, .bytes = bytes, .gemm = true},
                       .both = {.flop = 3 * flop, .bytes = 3 * bytes, .gemm = true}};
  };
  test::OpCase dense = dense_case(d, hidden);
  moe.cost = [=](const Shape& x, DType t) { return cost_with(experts / kTopK, x, t); };
  dense.cost = [=](const Shape& x, DType t) { return cost_with(1, x, t); };
  Cases twins;
  add_op(cases, moe, {rows, d}, dtype);
  add_op(twins, dense, {rows, d}, dtype);
  for (size_t i = 0; i < twins.size(); ++i) {
    Case& c = cases[cases.size() - twins.size() + i];
    c.shape = text_of(shape);
    c.beside = {.name = "dense", .prepare = twins[i].prepare};
  }
}

}  // namespace olm::tools
