#include <olm/autograd/ops/gated.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/gated.h>

namespace olm {
namespace {

using kernels::Activation;

Tensor gated(const char* op, const Tensor& x_in, Activation activation) {
  require_float(op, x_in);
  require(x_in.rank() >= 1 && x_in.size(-1) % 2 == 0, op,
          ": wanted values and gates in an even last dimension, got ", x_in.shape());

  const int64_t rows = leading_size(x_in), hidden = x_in.size(-1) / 2;
  Shape shape = x_in.shape();
  shape[shape.rank() - 1] = hidden;
  const Tensor x = raw::contiguous(x_in), y = empty(shape, options_of(x));
  run(x.device().kind, kernels::GatedForward{.dtype = x.dtype(),
                                             .y = y.mutable_data(),
                                             .x = x.data(),
                                             .rows = rows,
                                             .hidden = hidden,
                                             .activation = activation,
                                             .stream = stream_of(x)});

  return record(op, y, {x_in}, [=, x = saved(x)](const Tensor& dy, Sinks) -> Grads {
    const Tensor g = raw::contiguous(dy), dx = empty_like(x.get());
    run(g.device().kind, kernels::GatedBackward{.dtype = g.dtype(),
                                                .dx = dx.mutable_data(),
                                                .dy = g.data(),
                                                .x = x.get().data(),
                                                .rows = rows,
                                                .hidden = hidden,
                                                .activation = activation,
                                                .stream = stream_of(g)});
    return {dx};
  });
}

}  // namespace

Tensor swiglu(const Tensor& x) { return gated("swiglu", x, Activation::silu); }
Tensor geglu(const Tensor& x) { return gated("geglu", x, Activation::gelu); }
Tensor geglu_tanh(const Tensor& x) { return gated("geglu_tanh", x, Activation::gelu_tanh); }
Tensor reglu(const Tensor& x) { return gated("reglu", x, Activation::relu); }
Tensor liglu(const Tensor& x) { return gated("liglu", x, Activation::none); }
Tensor glu(const Tensor& x) { return gated("glu", x, Activation::sigmoid); }

}  // namespace olm
