#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Functions of each element, y = f(x), of x's shape and dtype. bf16 and f16 are computed in f32,
// for bf16 to the accuracy that rounding leaves; results below 1.2e-38 may become 0 there. x must
// be of a float dtype; neg, abs, sign, square, relu and clamp also take i32 and i64.

OLM_API Tensor neg(const Tensor& x);
OLM_API Tensor abs(const Tensor& x);
/// -1, 0 or 1; its derivative is 0.
OLM_API Tensor sign(const Tensor& x);
OLM_API Tensor square(const Tensor& x);
/// 1 / x.
OLM_API Tensor reciprocal(const Tensor& x);
OLM_API Tensor exp(const Tensor& x);
OLM_API Tensor log(const Tensor& x);
/// ln(1 + x), accurate near 0.
OLM_API Tensor log1p(const Tensor& x);
OLM_API Tensor sqrt(const Tensor& x);
/// 1 / √x.
OLM_API Tensor rsqrt(const Tensor& x);
/// x^p.
OLM_API Tensor pow(const Tensor& x, double p);
OLM_API Tensor sin(const Tensor& x);
OLM_API Tensor cos(const Tensor& x);
OLM_API Tensor erf(const Tensor& x);
/// min(max(x, low), high), bounds that x's dtype holds; derivative 1 where low <= x <= high, else
/// 0.
OLM_API Tensor clamp(const Tensor& x, double low, double high);

// Activations.

OLM_API Tensor tanh(const Tensor& x);
/// 1 / (1 + e^-x).
OLM_API Tensor sigmoid(const Tensor& x);
/// max(x, 0); its derivative at 0 is 0.
OLM_API Tensor relu(const Tensor& x);
/// max(x, 0)² (So et al. 2021, arXiv:2109.08668).
OLM_API Tensor relu_squared(const Tensor& x);
/// x where x > 0, else slope · x.
OLM_API Tensor leaky_relu(const Tensor& x, double slope = 0.01);
/// x where x > 0, else alpha · (e^x - 1) (Clevert et al. 2015, arXiv:1511.07289).
OLM_API Tensor elu(const Tensor& x, double alpha = 1);
/// ELU scaled so that activations normalise themselves (Klambauer et al. 2017, arXiv:1706.02515).
OLM_API Tensor selu(const Tensor& x);
/// x · Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016,
/// arXiv:1606.08415).
OLM_API Tensor gelu(const Tensor& x);
/// x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, the approximation GPT-2 was trained with.
OLM_API Tensor gelu_tanh(const Tensor& x);
/// x · sigmoid(x), also called swish (Ramachandran et al. 2017, arXiv:1710.05941).
OLM_API Tensor silu(const Tensor& x);
/// x · tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).
OLM_API Tensor mish(const Tensor& x);
/// ln(1 + e^(beta x)) / beta, and x itself where beta · x > threshold.
OLM_API Tensor softplus(const Tensor& x, double beta = 1, double threshold = 20);

}  // namespace olm
