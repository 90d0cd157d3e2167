#pragma once
// What cross_entropy and linear_cross_entropy do alike.
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/cross_entropy.h>

namespace olm::loss {

inline kernels::CrossEntropyTerms terms(const CrossEntropyOptions& o) {
  return {.ignore_index = o.ignore_index, .label_smoothing = o.label_smoothing, .z_loss = o.z_loss};
}

/// The targets, contiguous; throws where they do not fit x [..., anything] or an option is
/// senseless.
inline Tensor checked_targets(const char* op, const Tensor& x, const Tensor& targets,
                              const CrossEntropyOptions& o) {
  require_float(op, x);
  require_index_dtype(op, targets);
  require_same_device(op, x, targets);
  bool fits = x.rank() == targets.rank() + 1;
  for (int i = 0; fits && i < targets.rank(); ++i) fits = x.size(i) == targets.size(i);
  require(fits, op, ": targets ", targets.shape(), " do not fit ", x.shape(),
          ": wanted its shape without the last dimension");
  require(o.label_smoothing >= 0 && o.label_smoothing <= 1, op,
          ": wanted label_smoothing from 0 to 1, got ", o.label_smoothing);
  return raw::contiguous(targets);
}

/// What the sum of losses is multiplied by: a scalar of `acc`. Checks the ids.
inline Tensor scale(const Tensor& targets, int64_t classes, const CrossEntropyOptions& o,
                    TensorOptions acc) {
  const Tensor s = empty({}, acc);
  run(targets.device().kind, kernels::CrossEntropyScale{.dtype = acc.dtype,
                                                        .target_dtype = targets.dtype(),
                                                        .scale = s.mutable_data(),
                                                        .targets = targets.data(),
                                                        .rows = targets.numel(),
                                                        .classes = classes,
                                                        .ignore_index = o.ignore_index,
                                                        .mean = o.reduction == Reduction::mean,
                                                        .stream = stream_of(targets)});
  return s;
}

/// scale · Σ losses, a scalar.
inline Tensor total(const Tensor& losses, const Tensor& scale) {
  const Tensor t = empty({}, options_of(losses));
  run(losses.device().kind, kernels::CrossEntropyTotal{.dtype = losses.dtype(),
                                                       .total = t.mutable_data(),
                                                       .losses = losses.data(),
                                                       .scale = scale.data(),
                                                       .rows = losses.numel(),
                                                       .stream = stream_of(losses)});
  return t;
}

}  // namespace olm::loss
