#include <olm/autograd/ops/rms_norm.h>

#include <olm/engine/raw.h>
#include <olm/kernels/rms_norm.h>

namespace olm {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  require(x.rank() >= 1, "rms_norm: wanted x with at least one dimension, got a scalar");
  const int64_t cols = x.size(-1), rows = leading_size(x);
  require_float("rms_norm", x);
  require(weight.shape() == Shape{cols}, "rms_norm: weight ", weight.shape(), " does not fit x ",
          x.shape());
  require_same_device("rms_norm", x, weight);
  require_parameter_dtype("rms_norm", weight, x);
  const Tensor xc = raw::contiguous(x);
  const Tensor wc = raw::contiguous(raw::cast(weight, acc_dtype(x.dtype())));
  const Tensor y = empty_like(xc), rstd = empty({rows}, acc_options(x));
  run(x.device().kind, kernels::RMSNormForward{.dtype = x.dtype(),
                                               .x = xc.data(),
                                               .w = wc.data(),
                                               .y = y.mutable_data(),
                                               .rstd = rstd.mutable_data(),
                                               .rows = rows,
                                               .cols = cols,
                                               .eps = eps,
                                               .stream = stream_of(x)});
  return record("rms_norm", y, {x, weight},
                [=, weight_dtype = weight.dtype(), x = saved(xc), w = saved(wc)](
                    const Tensor& dy, Sinks into) -> Grads {
                  const Tensor g = raw::contiguous(dy);
                  const Tensor dx = into[0].needed ? empty_like(g) : Tensor();
                  const Tensor dw = into[1].needed ? into[1].pending_or_empty(w.get()) : Tensor();
                  run(g.device().kind,
                      kernels::RMSNormBackward{.dtype = g.dtype(),
                                               .dy = g.data(),
                                               .x = x.get().data(),
                                               .w = w.get().data(),
                                               .rstd = rstd.data(),
                                               .dx = dx.defined() ? dx.mutable_data() : nullptr,
                                               .dw = dw.defined() ? dw.mutable_data() : nullptr,
                                               .rows = rows,
                                               .cols = cols,
                                               .accumulate = into[1].accumulates(dw),
                                               .stream = stream_of(g)});
                  return {dx, dw.defined() ? raw::cast(dw, weight_dtype) : Tensor()};
                });
}

}  // namespace olm
