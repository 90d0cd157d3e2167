#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/norm.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// The norms as they are defined.
inline Tensor rms_norm_of_small_ops(const Tensor& x, const Tensor& weight, double eps) {
  return x * rsqrt(mean(square(x), -1, {.keepdim = true}) + eps) * weight;
}
inline Tensor layer_norm_of_small_ops(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                      double eps) {
  const Tensor centred = x - mean(x, -1, {.keepdim = true});
  return rms_norm_of_small_ops(centred, gamma, eps) + beta;
}

/// What every norm has in common: `tensors` of the shape, then `parameters` as long as its rows.
/// Without a residual x is read and y written, then x and dy read and dx written; with one twice as
/// much but for dx.
inline OpCase norm_case(const std::string& name, int tensors, int parameters, double forward_flop,
                        double both_flop) {
  OpCase c{.name = name, .shape = {3, 5, -1}, .cancelling = 1, .parallel = {300, 257}};
  c.inputs = [=](Generator& g, const Shape& shape) {
    Tensors in;
    for (int i = 0; i < tensors; ++i) in.push_back(randn(shape, g));
    for (int i = 0; i < parameters; ++i) in.push_back(randn({shape[shape.rank() - 1]}, g));
    return in;
  };
  for (int i = 0; i < parameters; ++i) c.parameters.push_back(size_t(tensors + i));
  c.cost = [=](const Shape& shape, DType dtype) {
    const double n = double(shape.numel()), bytes = n * double(size_of(dtype));
    return Costs{.forward = {.flop = forward_flop * n, .bytes = (tensors == 2 ? 4 : 2) * bytes},
                 .both = {.flop = both_flop * n,
                          .bytes = (tensors == 2 ? 8 : 5) * bytes,
                          .traffic = Traffic::axpy}};
  };
  return c;
}

inline OpCase rms_norm_case(double eps = 1e-5) {
  OpCase c = norm_case("rms_norm", 1, 1, 4, 14);
  c.op = [=](const Tensors& in) { return rms_norm(in[0], in[1], eps); };
  c.composition = [=](const Tensors& in) { return rms_norm_of_small_ops(in[0], in[1], eps); };
  return c;
}

inline OpCase layer_norm_case(double eps = 1e-5) {
  OpCase c = norm_case("layer_norm", 1, 2, 8, 22);
  c.op = [=](const Tensors& in) { return layer_norm(in[0], in[1], in[2], eps); };
  c.composition = [=](const Tensors& in) {
    return layer_norm_of_small_ops(in[0], in[1], in[2], eps);
  };
  return c;
}

inline OpCase plain_layer_norm_case(double eps = 1e-5) {
  OpCase c = norm_case("layer_norm without parameters", 1, 0, 6, 18);
  c.op = [=](const Tensors& in) { return layer_norm(in[0], {}, {}, eps); };
  c.composition = [=](const Tensors& in) {
    const Tensor one = ones({}, options_of(in[0]));
    return layer_norm_of_small_ops(in[0], one, one * 0, eps);
  };
  return c;
}

/// x, delta, weight.
inline OpCase add_rms_norm_case(double eps = 1e-5) {
  OpCase c = norm_case("add_rms_norm", 2, 1, 5, 15);
  c.op = [=](const Tensors& in) {
    const SumAndNorm r = add_rms_norm(in[0], in[1], in[2], eps);
    return Tensors{r.sum, r.y};
  };
  c.composition = [=](const Tensors& in) {
    const Tensor sum = in[0] + in[1];
    return Tensors{sum, rms_norm_of_small_ops(sum, in[2], eps)};
  };
  return c;
}

/// x, delta, gamma, beta.
inline OpCase add_layer_norm_case(double eps = 1e-5) {
  OpCase c = norm_case("add_layer_norm", 2, 2, 9, 27);
  c.op = [=](const Tensors& in) {
    const SumAndNorm r = add_layer_norm(in[0], in[1], in[2], in[3], eps);
    return Tensors{r.sum, r.y};
  };
  c.composition = [=](const Tensors& in) {
    const Tensor sum = in[0] + in[1];
    return Tensors{sum, layer_norm_of_small_ops(sum, in[2], in[3], eps)};
  };
  return c;
}

}  // namespace olm::test
