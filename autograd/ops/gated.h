#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// Gated linear units: the last axis of x [..., 2h] holds values a, then gates b, and y [..., h] is
///   swiglu: a · silu(b)   geglu: a · gelu(b), exact   reglu: a · relu(b)   liglu: a · b
///   geglu_tanh: a · gelu(b) by tanh   glu: a · sigmoid(b)
/// computed in f32 (f64 for f64; bf16 to the accuracy that rounding leaves). Throws where the last
/// axis is odd. Shazeer 2020, arXiv:2002.05202.
OLM_API Tensor swiglu(const Tensor& x);
OLM_API Tensor geglu(const Tensor& x);
OLM_API Tensor geglu_tanh(const Tensor& x);
OLM_API Tensor reglu(const Tensor& x);
OLM_API Tensor liglu(const Tensor& x);
OLM_API Tensor glu(const Tensor& x);

}  // namespace olm
