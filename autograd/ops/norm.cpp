#include <olm/autograd/ops/norm.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/norm.h>

namespace olm {
namespace {

using kernels::NormKind;

/// One norm: over x, or where `delta` is defined over their sum.
struct Norm {
  const char* op = "";
  NormKind kind = NormKind::rms;
  Tensor x = {}, delta = {}, weight = {}, bias = {};
  double eps = 0;
};

void check(const Norm& n) {
  require_rows(n.op, n.x);
  if (!n.delta.defined()) return;
  require(n.x.shape() == n.delta.shape(), n.op, ": delta ", n.delta.shape(), " does not fit x ",
          n.x.shape());
  require_same_device(n.op, n.x, n.delta);
  require_same_dtype(n.op, n.x, n.delta);
}

/// {y}, or {sum, y} where there is a delta.
Tensors norm(const Norm& n) {
  check(n);
  const NormKind kind = n.kind;
  const bool layer = kind == NormKind::layer, adds = n.delta.defined();
  const int64_t rows = leading_size(n.x), cols = n.x.size(-1);
  const Tensor weight = layer ? checked_if_defined(n.op, "gamma", n.weight, {cols}, n.x)
                              : checked_parameter(n.op, "weight", n.weight, {cols}, n.x);
  const Tensor bias = checked_if_defined(n.op, "beta", n.bias, {cols}, n.x);

  const Tensor x = raw::contiguous(n.x), delta = contiguous_if_defined(n.delta);
  const Tensor sum = adds ? empty_like(x) : Tensor(), y = empty_like(x);
  const Tensor rstd = empty({rows}, acc_options(x));
  const Tensor mean = layer ? empty({rows}, acc_options(x)) : Tensor();
  run(x.device().kind, kernels::NormForward{.kind = kind,
                                            .dtype = x.dtype(),
                                            .y = y.mutable_data(),
                                            .s = memory_or_null(sum),
                                            .mean = memory_or_null(mean),
                                            .rstd = rstd.mutable_data(),
                                            .x = x.data(),
                                            .delta = data_or_null(delta),
                                            .weight = data_or_null(weight),
                                            .bias = data_or_null(bias),
                                            .rows = rows,
                                            .cols = cols,
                                            .eps = n.eps,
                                            .stream = stream_of(x)});

  const auto backward = [=, s = saved(adds ? sum : x), w = saved(weight)](const Tensors& dys,
                                                                          Sinks into) -> Grads {
    const Tensor dy = raw::contiguous(dys.back());
    const Tensor ds = adds ? raw::contiguous(dys.front()) : Tensor();
    const Sink &to_x = into[0], &to_delta = into[1];
    const Tensor dx = to_x.needed || to_delta.needed ? empty_like(dy) : Tensor();
    const ParamGrad dweight(into[2], rstd.dtype()), dbias(into[3], rstd.dtype());
    run(dy.device().kind, kernels::NormBackward{.kind = kind,
                                                .dtype = dy.dtype(),
                                                .dx = memory_or_null(dx),
                                                .dweight = dweight.data(),
                                                .dbias = dbias.data(),
                                                .dy = dy.data(),
                                                .ds = data_or_null(ds),
                                                .s = s.get().data(),
                                                .weight = data_or_null(w.get()),
                                                .mean = data_or_null(mean),
                                                .rstd = rstd.data(),
                                                .rows = rows,
                                                .cols = cols,
                                                .accumulate_weight = dweight.accumulates(),
                                                .accumulate_bias = dbias.accumulates(),
                                                .stream = stream_of(dy)});
    return {to_x.needed ? dx : Tensor(), to_delta.needed ? dx : Tensor(), dweight.result(),
            dbias.result()};
  };
  return record(n.op, adds ? Tensors{sum, y} : Tensors{y}, {n.x, n.delta, n.weight, n.bias},
                backward);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return norm({.op = "rms_norm", .x = x, .weight = weight, .eps = eps})[0];
}

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return norm({.op = "layer_norm",
               .kind = NormKind::layer,
               .x = x,
               .weight = gamma,
               .bias = beta,
               .eps = eps})[0];
}

SumAndNorm add_rms_norm(const Tensor& x, const Tensor& delta, const Tensor& weight, double eps) {
  require(delta.defined(), "add_rms_norm: wanted a delta, got an undefined tensor");
  const Tensors r =
      norm({.op = "add_rms_norm", .x = x, .delta = delta, .weight = weight, .eps = eps});
  return {.sum = r[0], .y = r[1]};
}

SumAndNorm add_layer_norm(const Tensor& x, const Tensor& delta, const Tensor& gamma,
                          const Tensor& beta, double eps) {
  require(delta.defined(), "add_layer_norm: wanted a delta, got an undefined tensor");
  const Tensors r = norm({.op = "add_layer_norm",
                          .kind = NormKind::layer,
                          .x = x,
                          .delta = delta,
                          .weight = gamma,
                          .bias = beta,
                          .eps = eps});
  return {.sum = r[0], .y = r[1]};
}

}  // namespace olm
