#include <olm/autograd/ops/reduce.h>

#include <algorithm>
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/where.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/reduce.h>

namespace olm {

using kernels::ReduceOp;

namespace {

/// What is reduced: x laid out as [outer, reduced, inner], and the result's shapes.
struct Plan {
  Tensor x;
  int64_t outer = 1, reduced = 1, inner = 1;
  Shape whole;        // of what came
  Shape kept, shape;  // with reduced dimensions as 1, and as the caller wants it
};

Plan make_plan(const char* op, const Tensor& x, const Shape& dims, bool keepdim) {
  unsigned wanted = 0;
  for (const int64_t dim : dims) {
    const unsigned bit = 1u << normalize_dim(op, dim, x.rank());
    require(!(wanted & bit), op, ": dimensions ", dims, " name one twice");
    wanted |= bit;
  }
  Plan plan;
  plan.whole = x.shape();
  Shape before, reduced, after;  // dimensions by place relative to the reduced ones
  bool adjacent = true;
  for (int d = 0; d < x.rank(); ++d) {
    const bool in = wanted >> d & 1u;
    plan.kept.push_back(in ? 1 : x.size(d));
    if (!in) plan.shape.push_back(x.size(d));
    if (in && after.rank() > 0) adjacent = false;
    (in ? reduced : reduced.rank() == 0 ? before : after).push_back(d);
  }
  Shape order = before;
  if (adjacent) {
    for (const int64_t d : reduced) order.push_back(d), plan.reduced *= x.size(d);
    for (const int64_t d : after) order.push_back(d), plan.inner *= x.size(d);
  } else {  // reduced dimensions go last
    for (const int64_t d : after) order.push_back(d);
    for (const int64_t d : reduced) order.push_back(d), plan.reduced *= x.size(d);
  }
  for (const int64_t size : plan.shape) plan.outer *= size;
  if (plan.inner > 0) plan.outer /= plan.inner;
  plan.x = raw::contiguous(raw::permute(x, order));
  if (keepdim) plan.shape = plan.kept;
  return plan;
}

Shape all_dims(const Tensor& x) {
  Shape dims;
  for (int d = 0; d < x.rank(); ++d) dims.push_back(d);
  return dims;
}

Tensor reduce(const char* name, ReduceOp op, const Plan& plan) {
  const bool index = op == ReduceOp::argmax || op == ReduceOp::argmin;
  const bool extreme = index || op == ReduceOp::max || op == ReduceOp::min;
  require(!extreme || plan.reduced > 0 || plan.outer * plan.inner == 0, name,
          ": wanted at least one element to choose from, got none in x ", plan.whole);
  const Tensor y = empty(plan.shape, {index ? i64 : plan.x.dtype(), plan.x.device()});
  run(y.device().kind, kernels::Reduce{.op = op,
                                       .dtype = plan.x.dtype(),
                                       .x = plan.x.data(),
                                       .y = y.mutable_data(),
                                       .outer = plan.outer,
                                       .reduced = plan.reduced,
                                       .inner = plan.inner,
                                       .stream = stream_of(plan.x)});
  return y;
}

/// dy, whose reduced dimensions may be gone, repeated over x's shape.
Tensor spread(const Tensor& dy, const Shape& kept, const Shape& shape) {
  return raw::expand(raw::view(raw::contiguous(dy), kept), shape);
}

Tensor extreme(const char* name, ReduceOp op, const Tensor& x, const Shape& dims, bool keepdim) {
  require(x.dtype() != boolean, name, ": wanted numbers, got bool");
  const Plan plan = make_plan(name, x, dims, keepdim);
  const Tensor y = reduce(name, op, plan);
  return record(name, y, {x},
                [x = saved(x), y = saved(y), kept = plan.kept, dims](const Tensor& dy, Sinks) {
                  const Tensor& from = x.get();
                  const DType wide = acc_dtype(dy.dtype());
                  const Tensor hit = eq(from, raw::view(y.get(), kept));
                  const Tensor ties = sum(raw::cast(hit, wide), dims, {.keepdim = true});
                  const Tensor share = raw::view(raw::contiguous(raw::cast(dy, wide)), kept) / ties;
                  return Grads{where(hit, raw::cast(share, dy.dtype()), 0)};
                });
}

Tensor index_of(const char* name, ReduceOp op, const Tensor& x, const Shape& dims, bool keepdim) {
  const Tensor numbers = x.dtype() == boolean ? raw::cast(x, i32) : x;
  return reduce(name, op, make_plan(name, numbers, dims, keepdim));
}

}  // namespace

Tensor sum(const Tensor& x, const Shape& dims, ReduceOptions options) {
  const Tensor from = is_float(x.dtype()) ? x : raw::cast(x, i64);
  const Plan plan = make_plan("sum", from, dims, options.keepdim);
  return record("sum", reduce("sum", ReduceOp::sum, plan), {x},
                [kept = plan.kept, shape = x.shape()](const Tensor& dy, Sinks) {
                  return Grads{spread(dy, kept, shape)};
                });
}

Tensor mean(const Tensor& x, const Shape& dims, ReduceOptions options) {
  require_float("mean", x);
  const Plan plan = make_plan("mean", x, dims, options.keepdim);
  return record(
      "mean", reduce("mean", ReduceOp::mean, plan), {x},
      [kept = plan.kept, shape = x.shape(), count = plan.reduced](const Tensor& dy, Sinks) {
        return Grads{spread(div(dy, double(count)), kept, shape)};
      });
}

Tensor max(const Tensor& x, const Shape& dims, ReduceOptions options) {
  return extreme("max", ReduceOp::max, x, dims, options.keepdim);
}
Tensor min(const Tensor& x, const Shape& dims, ReduceOptions options) {
  return extreme("min", ReduceOp::min, x, dims, options.keepdim);
}

Tensor var(const Tensor& x, const Shape& dims, VarOptions options) {
  require_float("var", x);
  const Plan plan = make_plan("var", x, dims, options.keepdim);
  const Tensor y = empty(plan.shape, options_of(x)), average = empty(plan.kept, acc_options(x));
  run(x.device().kind, kernels::Variance{.dtype = x.dtype(),
                                         .x = plan.x.data(),
                                         .y = y.mutable_data(),
                                         .mean = average.mutable_data(),
                                         .outer = plan.outer,
                                         .reduced = plan.reduced,
                                         .inner = plan.inner,
                                         .correction = options.correction,
                                         .stream = stream_of(x)});
  const double divisor = std::max(0.0, double(plan.reduced) - options.correction);
  return record("var", y, {x},
                [x = saved(x), average, kept = plan.kept, divisor](const Tensor& dy, Sinks) {
                  const DType wide = average.dtype();
                  const Tensor g = raw::view(raw::contiguous(raw::cast(dy, wide)), kept);
                  const Tensor centred = raw::cast(x.get(), wide) - average;
                  return Grads{raw::cast(centred * (g * (2 / divisor)), dy.dtype())};
                });
}

namespace {
/// e^x / Σ e^x over `dims`, by differences from the largest x: a logsumexp in one number, of large
/// x, has lost the digits that matter. 0 where all x are -infinity.
Tensor softmax_over(const Tensor& x, const Shape& dims) {
  if (x.numel() == 0) return x;
  const Tensor most = max(x, dims, {.keepdim = true});
  const Tensor finite = lt(abs(most), std::numeric_limits<double>::infinity());
  const Tensor terms = exp(x - where(finite, most, 0));
  const Tensor total = sum(terms, dims, {.keepdim = true});
  return terms / where(eq(total, 0), 1, total);
}
}  // namespace

Tensor logsumexp(const Tensor& x, const Shape& dims, ReduceOptions options) {
  require_float("logsumexp", x);
  const Plan plan = make_plan("logsumexp", x, dims, options.keepdim);
  const Tensor y = reduce("logsumexp", ReduceOp::logsumexp, plan);
  return record("logsumexp", y, {x},
                [x = saved(x), kept = plan.kept, dims](const Tensor& dy, Sinks) {
                  const DType wide = acc_dtype(dy.dtype());
                  const Tensor g = raw::view(raw::contiguous(raw::cast(dy, wide)), kept);
                  const Tensor share = softmax_over(raw::cast(x.get(), wide), dims);
                  return Grads{raw::cast(share * g, dy.dtype())};
                });
}

Tensor sum(const Tensor& x) { return sum(x, all_dims(x)); }
Tensor mean(const Tensor& x) { return mean(x, all_dims(x)); }
Tensor max(const Tensor& x) { return max(x, all_dims(x)); }
Tensor min(const Tensor& x) { return min(x, all_dims(x)); }
Tensor logsumexp(const Tensor& x) { return logsumexp(x, all_dims(x)); }
Tensor var(const Tensor& x) { return var(x, all_dims(x)); }
Tensor sum(const Tensor& x, int64_t dim, ReduceOptions options) {
  return sum(x, Shape{dim}, options);
}
Tensor mean(const Tensor& x, int64_t dim, ReduceOptions options) {
  return mean(x, Shape{dim}, options);
}
Tensor max(const Tensor& x, int64_t dim, ReduceOptions options) {
  return max(x, Shape{dim}, options);
}
Tensor min(const Tensor& x, int64_t dim, ReduceOptions options) {
  return min(x, Shape{dim}, options);
}
Tensor var(const Tensor& x, int64_t dim, VarOptions options) { return var(x, Shape{dim}, options); }
Tensor logsumexp(const Tensor& x, int64_t dim, ReduceOptions options) {
  return logsumexp(x, Shape{dim}, options);
}

Tensor argmax(const Tensor& x) {
  return index_of("argmax", ReduceOp::argmax, x, all_dims(x), false);
}
Tensor argmax(const Tensor& x, int64_t dim, ReduceOptions options) {
  return index_of("argmax", ReduceOp::argmax, x, Shape{dim}, options.keepdim);
}
Tensor argmin(const Tensor& x) {
  return index_of("argmin", ReduceOp::argmin, x, all_dims(x), false);
}
Tensor argmin(const Tensor& x, int64_t dim, ReduceOptions options) {
  return index_of("argmin", ReduceOp::argmin, x, Shape{dim}, options.keepdim);
}

}  // namespace olm
