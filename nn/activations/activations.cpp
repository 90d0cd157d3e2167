#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/gated.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/softmax.h>
#include <olm/autograd/ops/view.h>
#include <olm/nn/activations.h>

namespace olm::nn {

namespace {

Tensor same(const Tensor& x) { return x; }
Tensor quick_gelu(const Tensor& x) { return x * sigmoid(x * 1.702); }

Ref<ElementwiseModule> elementwise(const char* type, ElementwiseModule::Function fn,
                                   Activation fused = Activation::none) {
  return make<ElementwiseModule>(type, fn, fused);
}
Ref<ElementwiseModule> gated_unit(const char* type, ElementwiseModule::Function fn) {
  return make<ElementwiseModule>(type, fn, Activation::none, true);
}

}  // namespace

Ref<ElementwiseModule> ReLU() { return elementwise("ReLU", relu, Activation::relu); }
Ref<ElementwiseModule> ReLUSquared() { return elementwise("ReLUSquared", relu_squared); }
Ref<ElementwiseModule> GELU() { return elementwise("GELU", gelu, Activation::gelu); }
Ref<ElementwiseModule> GELUTanh() {
  return elementwise("GELUTanh", gelu_tanh, Activation::gelu_tanh);
}
Ref<ElementwiseModule> QuickGELU() { return elementwise("QuickGELU", quick_gelu); }
Ref<ElementwiseModule> SELU() { return elementwise("SELU", selu); }
Ref<ElementwiseModule> SiLU() { return elementwise("SiLU", silu, Activation::silu); }
Ref<ElementwiseModule> Mish() { return elementwise("Mish", mish); }
Ref<ElementwiseModule> Tanh() { return elementwise("Tanh", tanh, Activation::tanh); }
Ref<ElementwiseModule> Sigmoid() { return elementwise("Sigmoid", sigmoid, Activation::sigmoid); }
Ref<ElementwiseModule> Identity() { return elementwise("Identity", same); }
Ref<ElementwiseModule> SwiGLU() { return gated_unit("SwiGLU", swiglu); }
Ref<ElementwiseModule> GeGLU() { return gated_unit("GeGLU", geglu); }
Ref<ElementwiseModule> GeGLUTanh() { return gated_unit("GeGLUTanh", geglu_tanh); }
Ref<ElementwiseModule> ReGLU() { return gated_unit("ReGLU", reglu); }
Ref<ElementwiseModule> LiGLU() { return gated_unit("LiGLU", liglu); }

Tensor LeakyReLUModule::forward(const Tensor& x, Context&) {
  return leaky_relu(x, options.negative_slope);
}
Ref<LeakyReLUModule> LeakyReLU(LeakyReLUOptions options) { return make<LeakyReLUModule>(options); }
Ref<LeakyReLUModule> LeakyReLU(double negative_slope) {
  return LeakyReLU({.negative_slope = negative_slope});
}

Tensor ELUModule::forward(const Tensor& x, Context&) { return elu(x, options.alpha); }
Ref<ELUModule> ELU(ELUOptions options) { return make<ELUModule>(options); }
Ref<ELUModule> ELU(double alpha) { return ELU({.alpha = alpha}); }

Tensor SoftplusModule::forward(const Tensor& x, Context&) {
  return softplus(x, options.beta, options.threshold);
}
Ref<SoftplusModule> Softplus(SoftplusOptions options) { return make<SoftplusModule>(options); }
Ref<SoftplusModule> Softplus(double beta, double threshold) {
  return Softplus({.beta = beta, .threshold = threshold});
}

PReLUModule::PReLUModule(PReLUOptions o)
    : Layer(o), weight(this, "act.weight", {o.num_parameters}, init::constant(o.init)) {
  require(o.num_parameters > 0, "PReLU: wanted num_parameters above 0, got ", o.num_parameters);
}

Tensor PReLUModule::forward(const Tensor& x, Context&) {
  const int64_t n = options.num_parameters;
  Shape along{n};
  if (n > 1) {
    require(x.rank() >= 2 && x.size(1) == n, "PReLU: wanted x [B,", n, ",...], got ", x.shape());
    for (int d = 2; d < x.rank(); ++d) along.push_back(1);
  }
  const Tensor slope = view(cast(weight, x.dtype()), along);
  return relu(x) - slope * relu(neg(x));
}
Ref<PReLUModule> PReLU(PReLUOptions options) { return make<PReLUModule>(options); }
Ref<PReLUModule> PReLU(int64_t num_parameters, double init) {
  return PReLU({.num_parameters = num_parameters, .init = init});
}

Tensor SoftmaxModule::forward(const Tensor& x, Context&) { return softmax(x, options.dim); }
Ref<SoftmaxModule> Softmax(SoftmaxOptions options) { return make<SoftmaxModule>(options); }
Ref<SoftmaxModule> Softmax(int64_t dim) { return Softmax({.dim = dim}); }

Tensor GLUModule::forward(const Tensor& x, Context&) {
  const int at = normalize_dim("GLU", options.dim, x.rank()), last = x.rank() - 1;
  return at == last ? glu(x) : transpose(glu(transpose(x, at, last)), at, last);
}
Ref<GLUModule> GLU(GLUOptions options) { return make<GLUModule>(options); }
Ref<GLUModule> GLU(int64_t dim) { return GLU({.dim = dim}); }

}  // namespace olm::nn
