#pragma once
// Matrix multiplication.
#include <olm/autograd/tape.h>

namespace olm {

/// Matrix multiplication over the last dimension of a and the last but one of b:
///   y[..., i, j] = Σ_k a[..., i, k] · b[..., k, j]
/// a: [..., M, K], b: [..., K, N]; leading dimensions broadcast; y: [..., M, N]. A vector a counts
/// as [1, K] and a vector b as [K, 1]; the added dimension leaves the result. Transposed operands
/// are read in place. Throws where shapes, dtypes or devices do not fit.
OLM_API Tensor matmul(const Tensor& a, const Tensor& b);

}  // namespace olm
