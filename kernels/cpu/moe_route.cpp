// Scores are those of the kernels of softmax and sigmoid, in acc_dtype. A token's choice is one
// scan over its experts that keeps the best so far in order, so that it rarely does more than
// compare. Threads own tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/moe_route.h>
#include <olm/kernels/pointwise.h>
#include <olm/kernels/softmax.h>

namespace olm::kernels {
namespace {

Copy conversion(DType from, DType to, const void* x, void* y, int64_t n, const Stream& stream) {
  return {.from = from,
          .to = to,
          .x = x,
          .y = y,
          .rank = 1,
          .shape = {n},
          .x_strides = {1},
          .y_strides = {1},
          .stream = stream};
}

/// NaN is larger than every number, and equal to itself.
template <class A>
bool larger(A a, A b) {
  return a > b || (std::isnan(a) && !std::isnan(b));
}

/// The `count` candidates of the largest value_of(i) for i in [0, n), in order; of equal ones the
/// lower comes first. `allowed` may be null.
template <class A, class ValueOf>
void choose(int64_t n, int64_t count, const bool* allowed, const ValueOf& value_of,
            int32_t* chosen) {
  int64_t have = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (allowed && !allowed[i]) continue;
    const A value = value_of(i);
    if (have == count && !larger(value, A(value_of(chosen[count - 1])))) continue;
    int64_t at = have < count ? have++ : count - 1;
    for (; at > 0 && larger(value, A(value_of(chosen[at - 1]))); --at) chosen[at] = chosen[at - 1];
    chosen[at] = int32_t(i);
  }
}

/// Sum of the two largest values; of the one there is.
template <class A>
A sum_of_best_two(const A* values, int64_t n) {
  int32_t best[2] = {};
  choose<A>(
      n, std::min<int64_t>(n, 2), nullptr, [&](int64_t i) { return values[i]; }, best);
  return n == 1 ? values[0] : values[best[0]] + values[best[1]];
}

/// Memory for the choice of one token.
template <class A>
struct Workspace {
  explicit Workspace(const MoERoute& k)
      : values(k.stream.scratch<A>(size_t(k.num_experts + k.groups))),
        groups(k.stream.scratch<int32_t>(size_t(k.top_groups))),
        allowed(k.stream.scratch<bool>(size_t(k.num_experts))) {}
  Scratch<A> values;  ///< of experts, then of groups
  Scratch<int32_t> groups;
  Scratch<bool> allowed;
};

/// Marks the experts of the best groups.
template <class A>
void allow_groups(const MoERoute& k, const Workspace<A>& w) {
  const int64_t size = k.num_experts / k.groups;
  A* of_group = w.values.get() + k.num_experts;
  for (int64_t g = 0; g < k.groups; ++g)
    of_group[g] = sum_of_best_two(w.values.get() + g * size, size);
  choose<A>(
      k.groups, k.top_groups, nullptr, [&](int64_t g) { return of_group[g]; }, w.groups);
  std::fill_n(w.allowed.get(), k.num_experts, false);
  for (int64_t i = 0; i < k.top_groups; ++i)
    std::fill_n(w.allowed.get() + w.groups[i] * size, size, true);
}

/// 1 / (Σ_k s_k + epsilon) over the chosen, or 1.
template <class A, class K>
A norm_of(const K& k, const A* scores, const int32_t* experts) {
  if (!k.normalize) return A(1);
  A sum = 0;
  for (int64_t j = 0; j < k.top_k; ++j) sum += scores[experts[j]];
  return A(1) / (sum + A(k.epsilon));
}

template <class A>
void route_token(const MoERoute& k, int64_t n, const Workspace<A>& w) {
  const A* scores = row<A>(k.scores, n, k.num_experts);
  const A* bias = in<A>(k.bias);
  for (int64_t e = 0; e < k.num_experts; ++e) w.values[e] = bias ? scores[e] + bias[e] : scores[e];
  const bool limited = k.top_groups < k.groups;
  if (limited) allow_groups(k, w);
  int32_t* experts = k.experts + n * k.top_k;
  choose<A>(
      k.num_experts, k.top_k, limited ? w.allowed.get() : nullptr,
      [&](int64_t e) { return w.values[e]; }, experts);
  const A factor = A(k.scale) * norm_of(k, scores, experts);
  for (int64_t j = 0; j < k.top_k; ++j)
    row_out<A>(k.weights, n, k.top_k)[j] = factor * scores[experts[j]];
}

/// Adds the gradient that reaches scores through the weights to ds.
template <class A>
void weights_backward(const MoERouteBackward& k, int64_t n, A* ds) {
  const A* scores = row<A>(k.scores, n, k.num_experts);
  const int32_t* experts = k.experts + n * k.top_k;
  const A* dw = row<A>(k.dweights, n, k.top_k);
  const A norm = norm_of(k, scores, experts);
  A shared = 0;  // what each score loses by being part of the sum
  for (int64_t j = 0; k.normalize && j < k.top_k; ++j)
    shared += dw[j] * (scores[experts[j]] * norm);
  for (int64_t j = 0; j < k.top_k; ++j) ds[experts[j]] += A(k.scale) * norm * (dw[j] - shared);
}

template <class A>
void scores_gradient(const MoERouteBackward& k, A* ds) {
  parallel_for(k.tokens, rows_per_range(k.num_experts), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      A* own = ds + n * k.num_experts;
      if (k.dscores)
        std::copy_n(row<A>(k.dscores, n, k.num_experts), k.num_experts, own);
      else
        std::fill_n(own, k.num_experts, A(0));
      if (k.dweights) weights_backward(k, n, own);
      if (k.scoring != MoEScoring::sigmoid) continue;
      const A* s = row<A>(k.scores, n, k.num_experts);
      for (int64_t e = 0; e < k.num_experts; ++e) own[e] *= s[e] * (1 - s[e]);
    }
  });
}

void compute_scores(const MoERoute& k) {
  const DType acc = acc_dtype(k.dtype);
  const int64_t n = k.tokens * k.num_experts;
  run(Cpu{}, conversion(k.dtype, acc, k.logits, k.scores, n, k.stream));
  if (k.scoring == MoEScoring::softmax)
    run(Cpu{}, SoftmaxForward{.dtype = acc,
                              .y = k.scores,
                              .x = k.scores,
                              .rows = k.tokens,
                              .cols = k.num_experts,
                              .stream = k.stream});
  else
    run(Cpu{}, Unary{.op = UnaryOp::sigmoid,
                     .dtype = acc,
                     .x = k.scores,
                     .y = k.scores,
                     .n = n,
                     .stream = k.stream});
}

}  // namespace

const char* name_of(MoEScoring scoring) {
  return scoring == MoEScoring::softmax ? "softmax" : "sigmoid";
}

void check(const MoERoute& k) {
  const int64_t in_groups = k.num_experts / std::max<int64_t>(k.groups, 1) * k.top_groups;
  require(k.groups >= 1 && k.num_experts % k.groups == 0 && k.top_groups <= k.groups &&
              k.top_k <= in_groups,
          "moe_route: cannot choose ", k.top_k, " of ", k.num_experts, " experts from ",
          k.top_groups, " of ", k.groups, " groups");
}

void run(Cpu, const MoERoute& k) {
  check(k);
  if (k.tokens == 0) return;
  compute_scores(k);
  visit_float(k.dtype, [&]<class T>() {
    using A = acc_t<T>;
    parallel_for(k.tokens, rows_per_range(k.num_experts, 4096), [&](int64_t begin, int64_t end) {
      const Workspace<A> workspace(k);
      for (int64_t n = begin; n < end; ++n) route_token(k, n, workspace);
    });
  });
}

void run(Cpu, const MoERouteBackward& k) {
  if (k.tokens == 0) return;
  visit_float(k.dtype, [&]<class T>() {
    using A = acc_t<T>;
    const int64_t n = k.tokens * k.num_experts;
    const bool direct = k.dtype == dtype_of<A>;
    const auto memory = k.stream.scratch<A>(size_t(direct ? 0 : n));
    A* ds = direct ? out<A>(k.dlogits) : memory.get();
    scores_gradient(k, ds);
    if (k.scoring == MoEScoring::softmax)
      run(Cpu{}, SoftmaxBackward{.dtype = dtype_of<A>,
                                 .dx = ds,
                                 .dy = ds,
                                 .y = k.scores,
                                 .rows = k.tokens,
                                 .cols = k.num_experts,
                                 .stream = k.stream});
    if (!direct) run(Cpu{}, conversion(dtype_of<A>, k.dtype, ds, k.dlogits, n, k.stream));
  });
}

}  // namespace olm::kernels
