#include <olm/autograd/ops/cross_entropy.h>

#include <algorithm>

#include <olm/autograd/ops/cross_entropy_internal.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>

namespace olm {
namespace {

struct CrossEntropySaved {
  Saved logits = {}, targets = {};
  Tensor row_max = {}, row_log_sum = {}, scale = {};
  CrossEntropyOptions options = {};
};

Grads cross_entropy_backward(const CrossEntropySaved& s, const Tensor& dy) {
  const Tensor &logits = s.logits.get(), &targets = s.targets.get();
  const Tensor g = raw::contiguous(dy), dlogits = empty_like(logits);
  run(g.device().kind,
      kernels::CrossEntropyBackward{.dtype = logits.dtype(),
                                    .target_dtype = targets.dtype(),
                                    .dlogits = dlogits.mutable_data(),
                                    .dy = g.data(),
                                    .scale = s.scale.data(),
                                    .logits = logits.data(),
                                    .row_max = s.row_max.data(),
                                    .row_log_sum = s.row_log_sum.data(),
                                    .targets = targets.data(),
                                    .rows = leading_size(logits),
                                    .cols = logits.size(-1),
                                    .one_dy = s.options.reduction != Reduction::none,
                                    .terms = loss::terms(s.options),
                                    .stream = stream_of(g)});
  return {dlogits};
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     const CrossEntropyOptions& options) {
  const Tensor tc = loss::checked_targets("cross_entropy", logits, targets, options);
  const Tensor lc = raw::contiguous(logits);
  const int64_t rows = leading_size(logits), cols = logits.size(-1);
  const TensorOptions acc = acc_options(logits);
  const Tensor scale = loss::scale(tc, cols, options, acc);
  const Tensor losses = empty(tc.shape(), acc);
  const Tensor row_max = empty({rows}, acc), row_log_sum = empty({rows}, acc);
  run(logits.device().kind, kernels::CrossEntropyForward{.dtype = logits.dtype(),
                                                         .target_dtype = tc.dtype(),
                                                         .losses = losses.mutable_data(),
                                                         .row_max = row_max.mutable_data(),
                                                         .row_log_sum = row_log_sum.mutable_data(),
                                                         .logits = lc.data(),
                                                         .targets = tc.data(),
                                                         .rows = rows,
                                                         .cols = cols,
                                                         .terms = loss::terms(options),
                                                         .stream = stream_of(logits)});
  const Tensor result = options.reduction == Reduction::none ? losses : loss::total(losses, scale);
  const CrossEntropySaved s{.logits = saved(lc),
                            .targets = saved(tc),
                            .row_max = row_max,
                            .row_log_sum = row_log_sum,
                            .scale = scale,
                            .options = options};
  return record("cross_entropy", result, {logits},
                [s](const Tensor& dy, Sinks) -> Grads { return cross_entropy_backward(s, dy); });
}

int64_t count_targets(const Tensor& targets, int64_t ignore_index) {
  require_index_dtype("count_targets", targets);
  if (targets.device() == meta) return targets.numel();
  const Tensor ids = raw::contiguous(raw::to(raw::cast(targets, i64), cpu));
  const int64_t* begin = ids.data<int64_t>();
  return ids.numel() - std::count(begin, begin + ids.numel(), ignore_index);
}

}  // namespace olm
