#pragma once
// Activations as modules. By name: activations().get("gelu")().
#include <olm/autograd/ops/linear.h>
#include <olm/nn/module.h>

namespace olm::nn {

/// Base of activations. For one of your own derive, write forward, and add it to activations(), so
/// that FFNs find it by name. One with options derives from Layer<Options, ActivationBase>.
class OLM_API ActivationBase : public Module {
 public:
  /// The epilogue of linear() that computes the same; `none` where there is none.
  virtual Activation fused() const { return Activation::none; }
  /// True for gated units, whose output has half the width of x.
  virtual bool gated() const { return false; }
};

/// A function without parameters: of each element, or of value and gate in a gated unit.
///   x: [...]    y: like x; of gated units [..., 2h] to [..., h]
class OLM_API ElementwiseModule final : public ActivationBase {
 public:
  using Function = Tensor (*)(const Tensor&);
  ElementwiseModule(const char* type, Function fn, Activation fused = Activation::none,
                    bool gated = false)
      : type_(type), fn_(fn), fused_(fused), gated_(gated) {}
  Tensor forward(const Tensor& x, Context&) override { return fn_(x); }
  std::string type_name() const override { return type_; }
  Activation fused() const override { return fused_; }
  bool gated() const override { return gated_; }

 private:
  const char* type_;
  Function fn_;
  Activation fused_;
  bool gated_;
};

OLM_API Ref<ElementwiseModule> ReLU();         ///< max(x, 0)
OLM_API Ref<ElementwiseModule> ReLUSquared();  ///< max(x, 0)²; So et al. 2021, arXiv:2109.08668
OLM_API Ref<ElementwiseModule> GELU();         ///< x · Φ(x), exact; Hendrycks & Gimpel 2016
OLM_API Ref<ElementwiseModule> GELUTanh();     ///< GELU by its tanh approximation
OLM_API Ref<ElementwiseModule> QuickGELU();    ///< GELU approximated by x · sigmoid(1.702 x)
OLM_API Ref<ElementwiseModule> SELU();         ///< Klambauer et al. 2017
OLM_API Ref<ElementwiseModule> SiLU();         ///< x · sigmoid(x), also called swish
OLM_API Ref<ElementwiseModule> Mish();         ///< x · tanh(softplus(x)); Misra 2019
OLM_API Ref<ElementwiseModule> Tanh();
OLM_API Ref<ElementwiseModule> Sigmoid();
OLM_API Ref<ElementwiseModule> Identity();

/// Gated units halve the last axis, which must be even: the first half is the value a, the second
/// the gate b. Shazeer 2020, arXiv:2002.05202.
///   x: [..., 2h]    y: [..., h]
OLM_API Ref<ElementwiseModule> SwiGLU();     ///< a · silu(b)
OLM_API Ref<ElementwiseModule> GeGLU();      ///< a · gelu(b), exact
OLM_API Ref<ElementwiseModule> GeGLUTanh();  ///< a · gelu(b), tanh approximation
OLM_API Ref<ElementwiseModule> ReGLU();      ///< a · relu(b)
OLM_API Ref<ElementwiseModule> LiGLU();      ///< a · b

struct LeakyReLUOptions {
  double negative_slope = 0.01;
  void fields(auto& v) { v("negative_slope", negative_slope); }
};
/// x where x > 0, else negative_slope · x.
class OLM_API LeakyReLUModule final : public Layer<LeakyReLUOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "LeakyReLU"; }
};
OLM_API Ref<LeakyReLUModule> LeakyReLU(LeakyReLUOptions options);
OLM_API Ref<LeakyReLUModule> LeakyReLU(double negative_slope = 0.01);

struct ELUOptions {
  double alpha = 1;
  void fields(auto& v) { v("alpha", alpha); }
};
/// x where x > 0, else alpha · (e^x - 1). Clevert et al. 2015.
class OLM_API ELUModule final : public Layer<ELUOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "ELU"; }
};
OLM_API Ref<ELUModule> ELU(ELUOptions options);
OLM_API Ref<ELUModule> ELU(double alpha = 1);

struct SoftplusOptions {
  double beta = 1, threshold = 20;
  void fields(auto& v) {
    v("beta", beta);
    v("threshold", threshold);
  }
};
/// ln(1 + e^(beta x)) / beta, and x itself where beta · x > threshold.
class OLM_API SoftplusModule final : public Layer<SoftplusOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "Softplus"; }
};
OLM_API Ref<SoftplusModule> Softplus(SoftplusOptions options);
OLM_API Ref<SoftplusModule> Softplus(double beta = 1, double threshold = 20);

struct PReLUOptions {
  int64_t num_parameters = 1;
  double init = 0.25;
  void fields(auto& v) {
    v("num_parameters", num_parameters);
    v("init", init);
  }
};
/// x where x > 0, else a · x with a learned slope; one for all, or one for each index of axis 1.
///   x: [...], or [B, num_parameters, ...]    y: like x
/// Key: act.weight [num_parameters]. Throws where axis 1 is of another size. He et al. 2015,
/// arXiv:1502.01852.
class OLM_API PReLUModule final : public Layer<PReLUOptions, ActivationBase> {
 public:
  explicit PReLUModule(PReLUOptions o);
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "PReLU"; }
  Parameter weight;
};
OLM_API Ref<PReLUModule> PReLU(PReLUOptions options);
OLM_API Ref<PReLUModule> PReLU(int64_t num_parameters = 1, double init = 0.25);

struct SoftmaxOptions {
  int64_t dim = -1;
  void fields(auto& v) { v("dim", dim); }
};
/// softmax along `dim`. See softmax().
class OLM_API SoftmaxModule final : public Layer<SoftmaxOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "Softmax"; }
};
OLM_API Ref<SoftmaxModule> Softmax(SoftmaxOptions options);
OLM_API Ref<SoftmaxModule> Softmax(int64_t dim = -1);

struct GLUOptions {
  int64_t dim = -1;
  void fields(auto& v) { v("dim", dim); }
};
/// a · sigmoid(b) for the halves a, b of `dim`, whose size must be even. Dauphin et al. 2016,
/// arXiv:1612.08083.
class OLM_API GLUModule final : public Layer<GLUOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override;
  std::string type_name() const override { return "GLU"; }
  bool gated() const override { return true; }
};
OLM_API Ref<GLUModule> GLU(GLUOptions options);
OLM_API Ref<GLUModule> GLU(int64_t dim = -1);

}  // namespace olm::nn
