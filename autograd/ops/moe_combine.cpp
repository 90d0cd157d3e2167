#include <olm/autograd/ops/moe_combine.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/autograd/ops/moe_permute_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/moe_combine.h>

namespace olm {
namespace {

using kernels::MoECombine;
using kernels::MoECombineBackward;

/// The shape of the result; throws where y, weights and residual do not fit the permutation.
Shape checked_result(const Tensor& y, const MoEPairs& pairs, const Tensor& residual) {
  const Shape wanted{pairs.tokens * pairs.top_k, y.size(-1)};
  require(y.shape() == wanted, "moe_combine: wanted y ", wanted, " for a permutation of ",
          pairs.positions.shape(), ", got ", y.shape());
  Shape result = pairs.positions.shape();
  result[result.rank() - 1] = y.size(-1);
  if (!residual.defined()) return result;
  require(residual.shape() == result, "moe_combine: wanted residual ", result, ", got ",
          residual.shape());
  require_same_device("moe_combine", y, residual);
  require_same_dtype("moe_combine", y, residual);
  return result;
}

}  // namespace

Tensor moe_combine(const Tensor& y, const Tensor& weights, const MoEPermutation& permutation,
                   const Tensor& residual) {
  require_rows("moe_combine", y);
  const MoEPairs pairs = checked_permutation("moe_combine", permutation, y);
  const Tensor result = empty(checked_result(y, pairs, residual), options_of(y));
  const Tensor yc = raw::contiguous(y), rc = contiguous_if_defined(residual);
  const Tensor wc =
      checked_parameter("moe_combine", "weights", weights, pairs.positions.shape(), y);
  run(y.device().kind, MoECombine{.dtype = y.dtype(),
                                  .y = result.mutable_data(),
                                  .x = yc.data(),
                                  .weights = wc.data(),
                                  .residual = data_or_null(rc),
                                  .positions = device_data<int32_t>(pairs.positions),
                                  .tokens = pairs.tokens,
                                  .top_k = pairs.top_k,
                                  .cols = y.size(-1),
                                  .stream = stream_of(y)});

  return record("moe_combine", result, {y, weights, residual},
                [y = saved(yc), w = saved(wc), positions = saved(pairs.positions)](
                    const Tensor& dy, Sinks into) -> Grads {
                  const Tensor residual = into[2].needed ? dy : Tensor();
                  if (!into[0].needed && !into[1].needed) return {Tensor(), Tensor(), residual};
                  const Tensor g = raw::contiguous(dy), dx = empty_if_needed(into[0]);
                  const Tensor dw = into[1].needed ? empty_like(w.get()) : Tensor();
                  run(g.device().kind,
                      MoECombineBackward{.dtype = g.dtype(),
                                         .dx = memory_or_null(dx),
                                         .dweights = memory_or_null(dw),
                                         .dy = g.data(),
                                         .x = y.get().data(),
                                         .weights = w.get().data(),
                                         .positions = device_data<int32_t>(positions.get()),
                                         .tokens = leading_size(w.get()),
                                         .top_k = w.get().size(-1),
                                         .cols = g.size(-1),
                                         .stream = stream_of(g)});
                  return {dx, dw.defined() ? raw::cast(dw, into[1].dtype) : dw, residual};
                });
}

}  // namespace olm
