#include <olm/autograd/ops/swiglu.h>

#include <olm/engine/raw.h>
#include <olm/kernels/swiglu.h>

namespace olm {
namespace {

using kernels::Activation;

Tensor gated_backward(const Tensor& dy, const Tensor& x, Activation activation) {
  const Tensor g = raw::contiguous(dy), dx = empty_like(x);
  run(g.device().kind, kernels::SwigluBackward{.dtype = x.dtype(),
                                               .dx = dx.mutable_data(),
                                               .dy = g.data(),
                                               .x = x.data(),
                                               .rows = leading_size(x),
                                               .hidden = x.size(-1) / 2,
                                               .activation = activation,
                                               .stream = stream_of(g)});
  return dx;
}

Tensor gated(const char* op, const Tensor& x, Activation activation) {
  require_float(op, x);
  require(x.rank() >= 1 && x.size(-1) % 2 == 0, op,
          ": wanted values and gates in an even last dimension, got ", x.shape());
  Shape shape = x.shape();
  shape[shape.rank() - 1] /= 2;
  const Tensor xc = raw::contiguous(x), y = empty(shape, options_of(x));
  run(x.device().kind, kernels::SwigluForward{.dtype = x.dtype(),
                                              .y = y.mutable_data(),
                                              .x = xc.data(),
                                              .rows = leading_size(x),
                                              .hidden = shape.back(),
                                              .activation = activation,
                                              .stream = stream_of(x)});
  return record(op, y, {x}, [activation, x = saved(xc)](const Tensor& dy, Sinks) -> Grads {
    return {gated_backward(dy, x.get(), activation)};
  });
}

}  // namespace

Tensor swiglu(const Tensor& x) { return gated("swiglu", x, Activation::silu); }
Tensor geglu(const Tensor& x) { return gated("geglu", x, Activation::gelu); }
Tensor reglu(const Tensor& x) { return gated("reglu", x, Activation::relu); }
Tensor liglu(const Tensor& x) { return gated("liglu", x, Activation::none); }
Tensor glu(const Tensor& x) { return gated("glu", x, Activation::sigmoid); }

}  // namespace olm
