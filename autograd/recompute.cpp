#include <olm/autograd/recompute.h>

#include <algorithm>

#include <olm/autograd/graph_internal.h>
#include <olm/engine/raw.h>

namespace olm {
namespace {

struct Again {
  std::function<Tensors(const Tensors&)> fn;
  std::vector<Saved> inputs;
  Tensors parameters;

  Grads operator()(const Tensors& dys, Sinks into) const {
    Tensors given, wanted;
    std::vector<size_t> at;
    std::vector<Sink> sinks;
    const auto want = [&](size_t i, const Tensor& leaf) {
      wanted.push_back(leaf);
      at.push_back(i);
      sinks.push_back(into[i]);
    };
    for (size_t i = 0; i < inputs.size(); ++i) {
      given.push_back(raw::alias(inputs[i].get()));
      if (!into[i].needed) continue;
      set_requires_grad(given.back());
      want(i, given.back());
    }
    for (size_t i = 0; i < parameters.size(); ++i)
      if (into[inputs.size() + i].needed) want(inputs.size() + i, parameters[i]);
    const uint64_t before = graph::current_number();
    Tensors ys;
    {
      EnableGrad guard;
      ys = fn(given);
    }
    const Tensors found =
        graph::gradients_within(ys, dys, wanted, sinks, {.refused = true, .least_number = before});
    Grads result(inputs.size() + parameters.size());
    for (size_t i = 0; i < at.size(); ++i) result[at[i]] = found[i];
    return result;
  }
};

}  // namespace

Tensors recompute(std::function<Tensors(const Tensors&)> fn, const Tensors& inputs,
                  const Tensors& parameters) {
  if (!grad_enabled()) return fn(inputs);
  Tensors ys;
  {
    NoGrad guard;
    ys = fn(inputs);
  }
  Again again{.fn = std::move(fn), .inputs = {}, .parameters = {}};
  Tensors all = inputs;
  for (const Tensor& x : inputs) again.inputs.push_back(saved(x));
  for (const Tensor& p : parameters) {
    const auto same = [&](const Tensor& other) { return other.is_same(p); };
    const bool seen = std::any_of(again.parameters.begin(), again.parameters.end(), same);
    if (!requires_grad(p) || seen) continue;
    require(is_leaf(p), "recompute: parameter ", p.shape(),
            " is the result of an op; pass it as an input");
    again.parameters.push_back(p);
    all.push_back(p);
  }
  return record("recompute", std::move(ys), all, std::move(again));
}

}  // namespace olm
