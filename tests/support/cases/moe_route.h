#pragma once
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/moe_route.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/softmax.h>
#include <olm/autograd/ops/sort.h>
#include <olm/autograd/ops/view.h>
#include <olm/autograd/ops/where.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// score + bias where a token may choose, else -inf.
inline Tensor allowed_scores(const Tensor& biased, const MoERouteOptions& o) {
  if (o.top_groups == o.groups) return biased;
  const int64_t tokens = biased.size(0), experts = biased.size(1), size = experts / o.groups;
  const Tensor groups = view(biased, {tokens, o.groups, size});
  const Tensor value = sum(topk(groups, std::min<int64_t>(size, 2)).values, -1);
  const Tensor best = topk(value, o.top_groups).indices;
  const Tensor chosen = sum(one_hot(best, o.groups, biased.dtype()), 1);
  const Tensor mask = raw::expand(raw::view(chosen, {tokens, o.groups, 1}), groups.shape());
  const double none = -std::numeric_limits<double>::infinity();
  return view(where(raw::cast(mask, boolean), groups, none), biased.shape());
}

/// logits [..., E], bias [E] or none.
inline Tensors routed_by_ops(const Tensors& in, const MoERouteOptions& o) {
  const Tensor wide = cast(in[0], acc_dtype(in[0].dtype()));
  const Tensor scores = o.scoring == MoEScoring::softmax ? softmax(wide, -1) : sigmoid(wide);
  Tensor biased = detach(scores);
  if (in.size() > 1) biased = biased + detach(in[1]);
  const Tensor experts = topk(allowed_scores(biased, o), o.top_k).indices;
  Tensor weights = gather(scores, -1, experts);
  if (o.normalize) weights = weights / (sum(weights, -1, {.keepdim = true}) + o.epsilon);
  return {raw::cast(experts, i32), weights * o.scale, scores};
}

inline OpCase moe_route_case(const std::string& name, const MoERouteOptions& options,
                             int64_t experts, bool bias) {
  return {.name = "moe_route, " + name,
          .shape = {-1, experts},
          .inputs =
              [=](Generator& g, const Shape& shape) {
                Tensors inputs{randn(shape, g)};
                raw::scale_(inputs[0], 3);
                if (bias) inputs.push_back(randn({shape[1]}, g));
                return inputs;
              },
          .op =
              [=](const Tensors& in) {
                const MoERouting r = moe_route(in[0], options, bias ? in[1] : Tensor());
                return Tensors{r.experts, r.weights, r.scores};
              },
          .composition = [=](const Tensors& in) { return routed_by_ops(in, options); },
          .fixed = {1},
          .parameters = {1},
          .reduction = [=](int64_t) { return double(experts); },
          .sizes = {0, 1, 31, 257},
          .parallel = {3000, experts},
          .cost =
              [](const Shape& s, DType dtype) {
                const double bytes = double(s.numel()) * double(size_of(dtype) + sizeof(float));
                return Costs{.forward = {.bytes = bytes}, .both = {.bytes = 3 * bytes}};
              }};
}

/// What `olm bench` measures: softmax, two experts for each token.
inline OpCase moe_top2_case() { return moe_route_case("top 2", {.top_k = 2}, 8, false); }

inline OpCases moe_route_cases() {
  const MoERouteOptions v3{
      .top_k = 4, .scoring = MoEScoring::sigmoid, .scale = 2.5, .groups = 4, .top_groups = 2};
  MoERouteOptions alone = v3;
  alone.groups = 8;
  alone.top_groups = 5;
  return {moe_top2_case(),
          moe_route_case("as many as there are", {.top_k = 5}, 5, false),
          moe_route_case("one expert", {.top_k = 1}, 1, false),
          moe_route_case("weights as they are", {.top_k = 3, .normalize = false, .scale = 0.5}, 33,
                         true),
          moe_route_case("sigmoid", {.top_k = 2, .scoring = MoEScoring::sigmoid}, 16, true),
          moe_route_case("best groups", v3, 24, true),
          moe_route_case("groups of one", alone, 8, false)};
}

}  // namespace olm::test
