#include <olm/autograd/ops/layer_norm.h>

#include <olm/autograd/ops/norm_internal.h>
#include <olm/kernels/layer_norm.h>

namespace olm {
namespace {

struct LayerNormSaved {
  Saved x = {}, gamma = {};
  Tensor mean = {}, rstd = {};
  DType gamma_dtype = f32, beta_dtype = f32;
};

Grads layer_norm_backward(const LayerNormSaved& s, const Tensor& dy, Sinks into) {
  const Tensor g = raw::contiguous(dy);
  const int64_t cols = g.size(-1);
  const Tensor dx = into[0].needed ? empty_like(g) : Tensor();
  const Tensor dgamma = norm::gradient_buffer(into[1], cols, acc_options(g));
  const Tensor dbeta = norm::gradient_buffer(into[2], cols, acc_options(g));
  run(g.device().kind,
      kernels::LayerNormBackward{.dtype = g.dtype(),
                                 .dx = norm::memory_or_null(dx),
                                 .dgamma = norm::memory_or_null(dgamma),
                                 .dbeta = norm::memory_or_null(dbeta),
                                 .dy = g.data(),
                                 .x = s.x.get().data(),
                                 .gamma = s.gamma.defined() ? s.gamma.get().data() : nullptr,
                                 .mean = s.mean.data(),
                                 .rstd = s.rstd.data(),
                                 .rows = leading_size(g),
                                 .cols = cols,
                                 .accumulate_gamma = into[1].accumulates(dgamma),
                                 .accumulate_beta = into[2].accumulates(dbeta),
                                 .stream = stream_of(g)});
  return {dx, norm::finished(dgamma, s.gamma_dtype), norm::finished(dbeta, s.beta_dtype)};
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  norm::require_rows("layer_norm", x);
  const Tensor xc = raw::contiguous(x), gc = norm::parameter("layer_norm", "gamma", gamma, x),
               bc = norm::parameter("layer_norm", "beta", beta, x), y = empty_like(xc);
  const int64_t rows = leading_size(x), cols = x.size(-1);
  const Tensor mean = empty({rows}, acc_options(x)), rstd = empty({rows}, acc_options(x));
  run(x.device().kind, kernels::LayerNormForward{.dtype = x.dtype(),
                                                 .y = y.mutable_data(),
                                                 .mean = mean.mutable_data(),
                                                 .rstd = rstd.mutable_data(),
                                                 .x = xc.data(),
                                                 .gamma = norm::data_or_null(gc),
                                                 .beta = norm::data_or_null(bc),
                                                 .rows = rows,
                                                 .cols = cols,
                                                 .eps = eps,
                                                 .stream = stream_of(x)});
  LayerNormSaved s{.x = saved(xc), .mean = mean, .rstd = rstd};
  if (gc.defined()) s.gamma = saved(gc), s.gamma_dtype = gamma.dtype();
  if (beta.defined()) s.beta_dtype = beta.dtype();
  return record("layer_norm", y, {x, gamma, beta}, [s](const Tensor& dy, Sinks into) -> Grads {
    return layer_norm_backward(s, dy, into);
  });
}

}  // namespace olm
