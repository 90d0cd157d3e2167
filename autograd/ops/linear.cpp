#include <olm/autograd/ops/linear.h>

#include <algorithm>

#include <olm/engine/raw.h>

namespace olm {
namespace {

using kernels::Gemm;
using kernels::GemmEpilogueBackward;

Shape with_last(const Tensor& x, int64_t last) {
  Shape shape = x.shape();
  shape[shape.rank() - 1] = last;
  return shape;
}

void check(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require(x.rank() >= 1, "linear: wanted x with at least one dimension, got a scalar");
  require_float("linear", x);
  require(weight.defined() && weight.rank() == 2 && weight.size(1) == x.size(-1),
          "linear: wanted weight [out,", x.size(-1), "] for x ", x.shape(), ", got ",
          weight.defined() ? weight.shape() : Shape{});
  require_same_device("linear", x, weight);
  require_parameter_dtype("linear", weight, x);
  if (!bias.defined()) return;
  require(bias.shape() == Shape{weight.size(0)}, "linear: bias ", bias.shape(),
          " does not fit weight ", weight.shape());
  require_same_device("linear", x, bias);
  require_parameter_dtype("linear", bias, x);
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
                            .bias = b.defined() ? b.data() : nullptr,
                            .bias_dtype = b.defined() ? b.dtype() : f32,
                            .activation = activation,
                            .preactivation = z.defined() ? z.mutable_data() : nullptr,
                            .residual = residual.defined() ? residual.data() : nullptr,
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

/// dw = dzᵀ · x, added to the gradient so far where there is one.
Tensor weight_gradient(const Tensor& dz, const Tensor& x, const Tensor& w, const Sink& into) {
  if (!into.needed) return {};
  const Tensor dw = into.pending_or_empty(w);
  run(dz.device().kind, Gemm{.a_dtype = dz.dtype(),
                             .b_dtype = x.dtype(),
                             .c_dtype = dw.dtype(),
                             .a = dz.data(),
                             .b = x.data(),
                             .c = dw.mutable_data(),
                             .transpose_a = true,
                             .m = w.size(0),
                             .n = w.size(1),
                             .k = leading_size(x),
                             .lda = w.size(0),
                             .accumulate = into.accumulates(dw),
                             .stream = stream_of(dz)});
  return dw;
}

/// Through activation and bias: returns dz, and puts the bias gradient into `db` where wanted.
Tensor epilogue_gradient(const Tensor& dy, const Tensor& z, Activation activation, DType bias_dtype,
                         const Sink& into, Tensor& db) {
  const bool bare = activation == Activation::none;
  if (bare && !into.needed) return dy;
  const Tensor dz = bare ? dy : empty_like(dy);
  if (into.needed)
    db = into.pending_or_empty(empty({dy.size(-1)}, {acc_dtype(bias_dtype), dy.device()}));
  run(dy.device().kind, GemmEpilogueBackward{.dtype = dy.dtype(),
                                             .dy = dy.data(),
                                             .z = bare ? nullptr : z.data(),
                                             .dz = bare ? nullptr : dz.mutable_data(),
                                             .dbias = into.needed ? db.mutable_data() : nullptr,
                                             .rows = leading_size(dy),
                                             .cols = dy.size(-1),
                                             .activation = activation,
                                             .accumulate = into.needed && into.accumulates(db),
                                             .stream = stream_of(dy)});
  if (into.needed) db = raw::cast(db, bias_dtype);
  return dz;
}

Tensor contiguous_or_none(const Tensor& t) { return t.defined() ? raw::contiguous(t) : t; }

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const LinearOptions& options) {
  check(x, weight, bias);
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
  const Tensor y = forward(xc, wc, contiguous_or_none(bias), act, contiguous_or_none(residual), z);
  const DType bias_dtype = bias.defined() ? bias.dtype() : f32;
  return record("linear", y, {x, weight, bias, residual},
                [=, x = saved(xc), w = saved(wc)](const Tensor& dy, Sinks into) -> Grads {
                  if (!into[0].needed && !into[1].needed && !into[2].needed)
                    return {Tensor(), Tensor(), Tensor(), dy};
                  Tensor db, dx;
                  const Tensor dz =
                      epilogue_gradient(raw::contiguous(dy), z, act, bias_dtype, into[2], db);
                  if (into[0].needed) {
                    dx = empty_like(x.get());
                    input_gradient(dz, w.get(), dx, false);
                  }
                  return {dx, weight_gradient(dz, x.get(), w.get(), into[1]), db,
                          into[3].needed ? dy : Tensor()};
                });
}

Tensors linear(const Tensor& x, const Tensors& weights, const Tensors& biases) {
  require(biases.empty() || biases.size() == weights.size(), "linear: got ", weights.size(),
          " weights and ", biases.size(), " biases");
  const size_t n = weights.size();
  Tensors inputs{x}, ys;
  const Tensor xc = raw::contiguous(x);
  std::vector<Saved> ws;
  std::vector<DType> bias_dtypes;
  for (size_t i = 0; i < n; ++i) {
    const Tensor bias = biases.empty() ? Tensor() : biases[i];
    check(x, weights[i], bias);
    const Tensor wc = raw::contiguous(weights[i]);
    ys.push_back(forward(xc, wc, contiguous_or_none(bias), Activation::none, {}, {}));
    ws.push_back(saved(wc));
    bias_dtypes.push_back(bias.defined() ? bias.dtype() : f32);
    inputs.push_back(weights[i]);
    inputs.push_back(bias);
  }
  return record("linear", ys, inputs, [=, x = saved(xc)](const Tensors& dys, Sinks into) -> Grads {
    Grads grads(1 + 2 * n);
    if (into[0].needed) grads[0] = empty_like(x.get());
    for (size_t i = 0; i < n; ++i) {
      const Tensor dz = epilogue_gradient(raw::contiguous(dys[i]), {}, Activation::none,
                                          bias_dtypes[i], into[2 + 2 * i], grads[2 + 2 * i]);
      if (into[0].needed) input_gradient(dz, ws[i].get(), grads[0], i > 0);
      grads[1 + 2 * i] = weight_gradient(dz, x.get(), ws[i].get(), into[1 + 2 * i]);
    }
    return grads;
  });
}

}  // namespace olm
