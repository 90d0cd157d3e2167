#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// What becomes of the losses of single targets: their mean over the targets that count, their sum,
/// or all of them.
enum class Reduction : uint8_t { mean, sum, none };

/// Which targets count, and what is added to -log p of each.
struct CrossEntropyOptions {
  int64_t ignore_index = -100;  ///< targets of this value have loss 0 and gradient 0
  double label_smoothing = 0;   ///< share of the target's weight given to all classes alike
  double z_loss = 0;            ///< weight of logsumexp², which keeps logits from drifting
  Reduction reduction = Reduction::mean;
};

/// Cross-entropy of classes given as ids: lse(x) - x[target] per row, with smoothing s
/// (1 - s) · (lse - x[target]) + s · (lse - mean x), plus z_loss · lse². logits: [..., V]; targets:
/// logits' shape without V, i64 or i32. The loss is a scalar (or of targets' shape for `none`), f32
/// (f64 for f64). Without any target that counts it is 0, and so is its gradient. Throws where
/// shapes do not fit or, on the CPU, where a target is neither in [0, V) nor ignore_index.
OLM_API Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                             const CrossEntropyOptions& options = {});

/// How many targets count. targets: i64 or i32; on `meta`, which has no values, all do.
OLM_API int64_t count_targets(const Tensor& targets, int64_t ignore_index = -100);

}  // namespace olm
