#include <olm/autograd/ops/add_norm.h>

#include <olm/autograd/ops/norm_internal.h>
#include <olm/kernels/add_norm.h>

namespace olm {
namespace {

struct AddNormSaved {
  Saved sum = {}, weight = {};
  Tensor mean = {}, rstd = {};
  DType weight_dtype = f32, bias_dtype = f32;
  bool centered = false;
};

Grads add_norm_backward(const AddNormSaved& s, const Tensors& dys, Sinks into) {
  const bool needed = into[0].needed || into[1].needed;
  const Tensor dsum = raw::contiguous(dys[0]), dy = raw::contiguous(dys[1]);
  const int64_t cols = dy.size(-1);
  const Tensor dx = needed ? empty_like(dy) : Tensor();
  const Tensor dweight = norm::gradient_buffer(into[2], cols, acc_options(dy));
  const Tensor dbias = norm::gradient_buffer(into[3], cols, acc_options(dy));
  run(dy.device().kind,
      kernels::AddNormBackward{.dtype = dy.dtype(),
                               .dx = norm::memory_or_null(dx),
                               .dweight = norm::memory_or_null(dweight),
                               .dbias = norm::memory_or_null(dbias),
                               .dy = dy.data(),
                               .dsum = dsum.data(),
                               .sum = s.sum.get().data(),
                               .weight = s.weight.defined() ? s.weight.get().data() : nullptr,
                               .mean = norm::data_or_null(s.mean),
                               .rstd = s.rstd.data(),
                               .rows = leading_size(dy),
                               .cols = cols,
                               .centered = s.centered,
                               .accumulate_weight = into[2].accumulates(dweight),
                               .accumulate_bias = into[3].accumulates(dbias),
                               .stream = stream_of(dy)});
  return {into[0].needed ? dx : Tensor(), into[1].needed ? dx : Tensor(),
          norm::finished(dweight, s.weight_dtype), norm::finished(dbias, s.bias_dtype)};
}

SumAndNorm add_norm(const char* op, const Tensor& x, const Tensor& residual, const Tensor& weight,
                    const Tensor& bias, double eps, bool centered) {
  norm::require_rows(op, x);
  require(x.shape() == residual.shape(), op, ": residual ", residual.shape(), " does not fit x ",
          x.shape());
  require_same_device(op, x, residual);
  require_same_dtype(op, x, residual);
  const Tensor xc = raw::contiguous(x), rc = raw::contiguous(residual);
  const Tensor wc = norm::parameter(op, centered ? "gamma" : "weight", weight, x);
  const Tensor bc = norm::parameter(op, "beta", bias, x);
  const int64_t rows = leading_size(x), cols = x.size(-1);
  const Tensor sum = empty_like(xc), y = empty_like(xc), rstd = empty({rows}, acc_options(x));
  const Tensor mean = centered ? empty({rows}, acc_options(x)) : Tensor();
  run(x.device().kind, kernels::AddNormForward{.dtype = x.dtype(),
                                               .sum = sum.mutable_data(),
                                               .y = y.mutable_data(),
                                               .mean = norm::memory_or_null(mean),
                                               .rstd = rstd.mutable_data(),
                                               .x = xc.data(),
                                               .residual = rc.data(),
                                               .weight = norm::data_or_null(wc),
                                               .bias = norm::data_or_null(bc),
                                               .rows = rows,
                                               .cols = cols,
                                               .eps = eps,
                                               .centered = centered,
                                               .stream = stream_of(x)});
  AddNormSaved s{.sum = saved(sum), .mean = mean, .rstd = rstd, .centered = centered};
  if (wc.defined()) s.weight = saved(wc), s.weight_dtype = weight.dtype();
  if (bias.defined()) s.bias_dtype = bias.dtype();
  const Tensors results =
      record(op, Tensors{sum, y}, {x, residual, weight, bias},
             [s](const Tensors& dys, Sinks into) { return add_norm_backward(s, dys, into); });
  return {.sum = results[0], .y = results[1]};
}

}  // namespace

SumAndNorm add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
  require(weight.defined(), "add_rms_norm: wanted a weight, got an undefined tensor");
  return add_norm("add_rms_norm", x, residual, weight, {}, eps, false);
}

SumAndNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                          const Tensor& beta, double eps) {
  return add_norm("add_layer_norm", x, residual, gamma, beta, eps, true);
}

}  // namespace olm
