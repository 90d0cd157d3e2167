#include <olm/autograd/ops/linear.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>

namespace olm {
namespace {

using kernels::Gemm;
using kernels::GemmEpilogueBackward;

Shape with_last(const Tensor& x, int64_t last) {
  Shape shape = x.shape();
  shape[shape.rank() - 1] = last;
  return shape;
}

/// y = act(x · wᵀ + b) + residual; x, w, b, residual contiguous. Fills `z` where it is defined.
Tensor forward(const Tensor& x, const Tensor& w, const Tensor& b, Activation activation,
               const Tensor& residual, const Tensor& z) {
  const Tensor y = empty(with_last(x, w.size(0)), options_of(x));
  run(x.device().kind, Gemm{.a_dtype = x.dtype(),
                            .b_dtype = w.dtype(),
                            .c_dtype = x.dtype(),
                            .a = x.data(),
                            .b = w.data(),
                            .c = y.mutable_data(),
                            .transpose_b = true,
                            .m = leading_size(x),
                            .n = w.size(0),
                            .k = w.size(1),
                            .bias = data_or_null(b),
                            .bias_dtype = b.defined() ? b.dtype() : f32,
                            .activation = activation,
                            .preactivation = memory_or_null(z),
                            .residual = data_or_null(residual),
                            .stream = stream_of(x)});
  return y;
}

/// dx = dz · w, or dx += that.
void input_gradient(const Tensor& dz, const Tensor& w, const Tensor& dx, bool accumulate) {
  run(dz.device().kind, Gemm{.a_dtype = dz.dtype(),
                             .b_dtype = w.dtype(),
                             .c_dtype = dx.dtype(),
                             .a = dz.data(),
                             .b = w.data(),
                             .c = dx.mutable_data(),
                             .m = leading_size(dz),
                             .n = w.size(1),
                             .k = w.size(0),
                             .accumulate = accumulate,
                             .stream = stream_of(dz)});
}

/// dw = dzᵀ · x in the weight's dtype, which GEMM writes whatever it is.
Tensor weight_gradient(const Tensor& dz, const Tensor& x, const Sink& into) {
  if (!into.needed) return {};
  const ParamGrad dw(into, into.dtype);
  const int64_t out = dz.size(-1), in = x.size(-1);
  run(dz.device().kind, Gemm{.a_dtype = dz.dtype(),
                             .b_dtype = x.dtype(),
                             .c_dtype = into.dtype,
                             .a = dz.data(),
                             .b = x.data(),
                             .c = dw.data(),
                             .transpose_a = true,
                             .m = out,
                             .n = in,
                             .k = leading_size(x),
                             .lda = out,
                             .accumulate = dw.accumulates(),
                             .stream = stream_of(dz)});
  return dw.result();
}

/// Gradients behind activation and bias.
struct EpilogueGradient {
  Tensor dz, dbias;
};

EpilogueGradient epilogue_gradient(const Tensor& dy, const Tensor& z, Activation activation,
                                   const Sink& into) {
  const bool bare = activation == Activation::none;
  if (bare && !into.needed) return {dy, {}};
  const Tensor dz = bare ? dy : empty_like(dy);
  const ParamGrad dbias(into, acc_dtype(dy.dtype()));
  run(dy.device().kind, GemmEpilogueBackward{.dtype = dy.dtype(),
                                             .dy = dy.data(),
                                             .z = bare ? nullptr : z.data(),
                                             .dz = bare ? nullptr : dz.mutable_data(),
                                             .dbias = dbias.data(),
                                             .rows = leading_size(dy),
                                             .cols = dy.size(-1),
                                             .activation = activation,
                                             .accumulate = dbias.accumulates(),
                                             .stream = stream_of(dy)});
  return {dz, dbias.result()};
}

}  // namespace

Activation parse_activation(const std::string& name, const std::string& where) {
  std::string known;
  for (const Activation a : kActivations) {
    if (name == name_of(a)) return a;
    known += (known.empty() ? "" : ", ") + std::string(name_of(a));
  }
  fail(where, ": unknown activation \"", name, "\"; known are ", known);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const LinearOptions& options) {
  check_linear("linear", x, weight, bias);
  const Tensor& residual = options.residual;
  const Activation act = options.activation;
  if (residual.defined()) {
    const Shape wanted = with_last(x, weight.size(0));
    require(residual.shape() == wanted, "linear: wanted residual ", wanted, ", got ",
            residual.shape());
    require_same_device("linear", x, residual);
    require_same_dtype("linear", x, residual);
  }

  const Tensor xc = raw::contiguous(x), wc = raw::contiguous(weight);
  const bool differentiated =
      requires_grad(x) || requires_grad(weight) || (bias.defined() && requires_grad(bias));
  const bool keep = act != Activation::none && grad_enabled() && differentiated;
  const Tensor z = keep ? empty(with_last(x, weight.size(0)), options_of(x)) : Tensor();
  const Tensor y =
      forward(xc, wc, contiguous_if_defined(bias), act, contiguous_if_defined(residual), z);

  return record(
      "linear", y, {x, weight, bias, residual},
      [=, x = saved(xc), w = saved(wc)](const Tensor& dy, Sinks into) -> Grads {
        if (!into[0].needed && !into[1].needed && !into[2].needed)
          return {Tensor(), Tensor(), Tensor(), dy};
        const auto [dz, dbias] = epilogue_gradient(raw::contiguous(dy), z, act, into[2]);
        const Tensor dx = empty_if_needed(into[0]);
        if (dx.defined()) input_gradient(dz, w.get(), dx, false);
        return {dx, weight_gradient(dz, x.get(), into[1]), dbias, into[3].needed ? dy : Tensor()};
      });
}

Tensors linear(const Tensor& x, const Tensors& weights, const Tensors& biases) {
  require(biases.empty() || biases.size() == weights.size(), "linear: got ", weights.size(),
          " weights and ", biases.size(), " biases");
  const size_t n = weights.size();
  Tensors inputs{x}, ys;
  const Tensor xc = raw::contiguous(x);
  std::vector<Saved> ws;
  for (size_t i = 0; i < n; ++i) {
    const Tensor bias = biases.empty() ? Tensor() : biases[i];
    check_linear("linear", x, weights[i], bias);
    const Tensor wc = raw::contiguous(weights[i]);
    ys.push_back(forward(xc, wc, contiguous_if_defined(bias), Activation::none, {}, {}));
    ws.push_back(saved(wc));
    inputs.push_back(weights[i]);
    inputs.push_back(bias);
  }
  return record("linear", ys, inputs, [=, x = saved(xc)](const Tensors& dys, Sinks into) -> Grads {
    Grads grads(1 + 2 * n);
    grads[0] = empty_if_needed(into[0]);
    for (size_t i = 0; i < n; ++i) {
      const auto [dz, dbias] =
          epilogue_gradient(raw::contiguous(dys[i]), {}, Activation::none, into[2 + 2 * i]);
      if (into[0].needed) input_gradient(dz, ws[i].get(), grads[0], i > 0);
      grads[1 + 2 * i] = weight_gradient(dz, x.get(), into[1 + 2 * i]);
      grads[2 + 2 * i] = dbias;
    }
    return grads;
  });
}

}  // namespace olm
