#include <olm/autograd/ops/moe_route.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>

namespace olm {
namespace {

using kernels::MoERoute;
using kernels::MoERouteBackward;

/// `shape` with another last size.
Shape with_last(Shape shape, int64_t size) {
  shape[shape.rank() - 1] = size;
  return shape;
}

void check_options(const Tensor& logits, const MoERouteOptions& o) {
  require_rows("moe_route", logits);
  const int64_t experts = logits.size(-1);
  require(o.top_k >= 1 && o.top_k <= experts, "moe_route: wanted top_k in [1, ", experts,
          "] for logits ", logits.shape(), ", got ", o.top_k);
  require(o.groups >= 1 && experts % o.groups == 0, "moe_route: ", o.groups,
          " groups do not divide the ", experts, " experts of logits ", logits.shape());
  require(o.top_groups >= 1 && o.top_groups <= o.groups, "moe_route: wanted top_groups in [1, ",
          o.groups, "], got ", o.top_groups);
  require(o.top_k <= experts / o.groups * o.top_groups, "moe_route: ", o.top_groups, " groups of ",
          experts / o.groups, " experts are fewer than top_k ", o.top_k);
}

}  // namespace

MoEScoring parse_moe_scoring(const std::string& name, const std::string& where) {
  std::string known;
  for (const MoEScoring s : kMoEScorings) {
    if (name == name_of(s)) return s;
    known += (known.empty() ? "" : ", ") + std::string(name_of(s));
  }
  fail(where, ": unknown scoring \"", name, "\"; known are ", known);
}

MoERouting moe_route(const Tensor& logits, const MoERouteOptions& options, const Tensor& bias) {
  check_options(logits, options);
  const Tensor x = raw::contiguous(logits);
  const Tensor b = checked_if_defined("moe_route", "bias", bias, {logits.size(-1)}, logits);
  const Shape chosen = with_last(x.shape(), options.top_k);
  const Tensor experts = empty(chosen, {i32, x.device()});
  const Tensor weights = empty(chosen, acc_options(x)), scores = empty(x.shape(), acc_options(x));
  run(x.device().kind, MoERoute{.dtype = x.dtype(),
                                .experts = mutable_device_data<int32_t>(experts),
                                .weights = weights.mutable_data(),
                                .scores = scores.mutable_data(),
                                .logits = x.data(),
                                .bias = data_or_null(b),
                                .tokens = leading_size(x),
                                .num_experts = x.size(-1),
                                .top_k = options.top_k,
                                .groups = options.groups,
                                .top_groups = options.top_groups,
                                .scoring = options.scoring,
                                .normalize = options.normalize,
                                .scale = options.scale,
                                .epsilon = options.epsilon,
                                .stream = stream_of(x)});

  Tensors results = record(
      "moe_route", {experts, weights, scores}, {logits},
      [o = options, scores = saved(scores), experts = saved(experts)](const Tensors& dys,
                                                                      Sinks into) -> Grads {
        const Tensor dx = empty_if_needed(into[0]), s = scores.get();
        if (!dx.defined()) return {dx};
        const Tensor dweights = raw::contiguous(dys[1]), dscores = raw::contiguous(dys[2]);
        run(dx.device().kind, MoERouteBackward{.dtype = dx.dtype(),
                                               .dlogits = dx.mutable_data(),
                                               .dweights = dweights.data(),
                                               .dscores = dscores.data(),
                                               .scores = s.data(),
                                               .experts = device_data<int32_t>(experts.get()),
                                               .tokens = leading_size(s),
                                               .num_experts = s.size(-1),
                                               .top_k = o.top_k,
                                               .scoring = o.scoring,
                                               .normalize = o.normalize,
                                               .scale = o.scale,
                                               .epsilon = o.epsilon,
                                               .stream = stream_of(dx)});
        return {dx};
      });
  return {results[0], results[1], results[2]};
}

}  // namespace olm
