#pragma once
// Muon (Jordan et al. 2024): matrices that move along an orthogonalized direction.
#include <olm/engine/raw_optim.h>

namespace olm::raw {

struct OrthogonalizeOptions {
  int64_t iterations = 5;
  DType dtype = bf16;  ///< that matrices are multiplied in, with sums in f32; f64 for f64
};

/// U S' Vᵀ where x: [M,N] is U S Vᵀ, with all of S' between 0.68 and 1.21 where S is above ‖x‖ /
/// 500: about the orthogonal matrix nearest to x. By Newton-Schulz iterations of x / (‖x‖ + 1e-7),
/// on its shorter side (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):
///   A = X Xᵀ    X = (3.4445 I - 4.7750 A + 2.0315 A²) X
/// x: contiguous, f32 or f64; so is the result.
OLM_API Tensor orthogonalize(const Tensor& x, const OrthogonalizeOptions& options = {});
/// Floating-point operations of that.
OLM_API double orthogonalize_flops(int64_t rows, int64_t columns, int64_t iterations);

struct MuonStep {
  double momentum = 0.95;
  bool nesterov = true;
  /// The move has a root mean square of about 0.2 lr, that of AdamW (Liu et al. 2025,
  /// arXiv:2502.16982): o is scaled by 0.2 · sqrt(max(M, N)). Else by sqrt(max(1, M / N)).
  bool match_adamw = true;
  OrthogonalizeOptions orthogonalize = {};
};

/// Of each matrix p: [M,N] with its momentum, the first moment, where lr = lr · lr_scale:
///   d = its direction (kernels::MuonDirection)    o = scale · orthogonalize(d)
///   p *= 1 - lr·weight_decay    p -= lr · o
/// One matrix after the other, each the same bits in any company. Throws as the updates above it,
/// and for parameters that are no matrices.
OLM_API void muon_(const std::vector<OptimItem>& items, const StepState& state,
                   const MuonStep& step);

}  // namespace olm::raw
