#include <olm/autograd/ops/moe_permute.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/autograd/ops/moe_permute_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/moe_combine.h>
#include <olm/kernels/moe_permute.h>

namespace olm {

MoEPermutation moe_sort(const Tensor& experts, int64_t num_experts) {
  require_index_dtype("moe_sort", experts);
  require(experts.rank() >= 1, "moe_sort: wanted experts [...,K], got a scalar");
  require(num_experts >= 1, "moe_sort: wanted at least one expert, got ", num_experts);
  const Tensor ids = raw::contiguous(experts);
  const TensorOptions options{i32, ids.device()};
  const MoEPermutation p{empty({ids.numel()}, options), empty(ids.shape(), options),
                         empty({num_experts + 1}, options)};
  run(ids.device().kind, kernels::MoESort{.index_dtype = ids.dtype(),
                                          .rows = mutable_device_data<int32_t>(p.rows),
                                          .positions = mutable_device_data<int32_t>(p.positions),
                                          .offsets = mutable_device_data<int32_t>(p.offsets),
                                          .experts = ids.data(),
                                          .pairs = ids.numel(),
                                          .num_experts = num_experts,
                                          .stream = stream_of(ids)});
  return p;
}

Tensor moe_permute(const Tensor& x, const MoEPermutation& permutation) {
  require_rows("moe_permute", x);
  const MoEPairs pairs = checked_permutation("moe_permute", permutation, x);
  require(leading_size(x) == pairs.tokens, "moe_permute: x ", x.shape(), " has ", leading_size(x),
          " tokens, the permutation ", permutation.positions.shape(), " has ", pairs.tokens);
  const Tensor xc = raw::contiguous(x);
  const int64_t cols = x.size(-1);
  const Tensor y = empty({pairs.tokens * pairs.top_k, cols}, options_of(x));
  run(x.device().kind, kernels::MoEPermute{.dtype = x.dtype(),
                                           .y = y.mutable_data(),
                                           .x = xc.data(),
                                           .rows = device_data<int32_t>(pairs.rows),
                                           .pairs = pairs.tokens * pairs.top_k,
                                           .top_k = pairs.top_k,
                                           .cols = cols,
                                           .stream = stream_of(x)});

  return record("moe_permute", y, {x},
                [=, positions = saved(pairs.positions), tokens = pairs.tokens, top_k = pairs.top_k](
                    const Tensor& dy, Sinks into) -> Grads {
                  const Tensor g = raw::contiguous(dy), dx = empty_if_needed(into[0]);
                  if (!dx.defined()) return {dx};
                  run(g.device().kind,
                      kernels::MoECombine{.dtype = g.dtype(),
                                          .y = dx.mutable_data(),
                                          .x = g.data(),
                                          .positions = device_data<int32_t>(positions.get()),
                                          .tokens = tokens,
                                          .top_k = top_k,
                                          .cols = cols,
                                          .stream = stream_of(g)});
                  return {dx};
                });
}

}  // namespace olm
