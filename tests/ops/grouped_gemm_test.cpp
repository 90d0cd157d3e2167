#include <doctest/doctest.h>

#include <olm/kernels/base/parallel.h>
#include <tests/support/cases/gated.h>
#include <tests/support/cases/grouped_gemm.h>
#include <tests/support/cases/moe_combine.h>
#include <tests/support/cases/moe_route.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/grouped_gemm", grouped_gemm_cases())

namespace {

/// Experts of a mixture: SwiGLU networks, hidden wide.
struct Experts {
  Tensors up, down;

  Experts(int64_t count, int64_t d, int64_t hidden, Generator& g, DType dtype) {
    for (int64_t e = 0; e < count; ++e) {
      up.push_back(randn({2 * hidden, d}, g, {.dtype = dtype}));
      down.push_back(randn({d, hidden}, g, {.dtype = dtype}));
    }
    for (const Tensor& t : leaves()) set_requires_grad(t);
  }
  Tensors leaves() const {
    Tensors all = up;
    all.insert(all.end(), down.begin(), down.end());
    return all;
  }
};

/// By the ops of this stem and its neighbours.
Tensor mixture(const Tensor& x, const MoERouting& r, const Experts& experts) {
  const MoEPermutation p = moe_sort(r.experts, int64_t(experts.up.size()));
  const Tensor h = swiglu(grouped_linear(moe_permute(x, p), experts.up, {}, p.offsets));
  return moe_combine(grouped_linear(h, experts.down, {}, p.offsets), r.weights, p);
}

/// Expert by expert, on the tokens that chose it.
Tensor mixture_by_loop(const Tensor& x, const MoERouting& r, const Experts& experts) {
  const std::vector<int64_t> ids = to_host<int64_t>(r.experts);
  const int64_t top_k = r.experts.size(1), d = x.size(1);
  Tensor y = zeros(x.shape(), options_of(x));
  for (size_t e = 0; e < experts.up.size(); ++e) {
    std::vector<int64_t> tokens, pairs;
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == int64_t(e)) {
        tokens.push_back(int64_t(i) / top_k);
        pairs.push_back(int64_t(i));
      }
    if (tokens.empty()) continue;
    const auto n = int64_t(tokens.size());
    const Tensor rows = index_select(x, 0, from_host(tokens, {n}));
    const Tensor w = index_select(reshape(r.weights, {-1}), 0, from_host(pairs, {n}));
    const Tensor out = linear(swiglu(linear(rows, experts.up[e])), experts.down[e]);
    const Tensor index = raw::contiguous(raw::expand(from_host(tokens, {n, 1}), {n, d}));
    y = scatter_add(y, 0, index, out * reshape(w, {n, 1}));
  }
  return y;
}

/// Results and gradients of x, logits and experts, of both ways.
void compare_ways(int64_t tokens, int64_t num_experts, int64_t top_k, const Tensor& bias = {}) {
  INFO(tokens, " tokens, ", top_k, " of ", num_experts);
  Generator g(7);
  const TensorOptions wide{.dtype = f64};
  const int64_t d = 6;
  const Tensor x = randn({tokens, d}, g, wide), logits = randn({tokens, num_experts}, g, wide);
  const Tensor dy = randn({tokens, d}, g, wide);
  const Experts experts(num_experts, d, 5, g, f64);
  Tensors leaves = experts.leaves();
  for (const Tensor& t : {x, logits}) {
    set_requires_grad(t);
    leaves.push_back(t);
  }
  const MoERouting r = moe_route(logits, {.top_k = top_k}, bias);
  const Tensor y = mixture(x, r, experts), wanted = mixture_by_loop(x, r, experts);
  check_close(y, wanted, f64, 30, "mixture", 1);
  if (tokens == 0) return;
  const Tensors got_grads = gradients({y}, {dy}, leaves);
  const MoERouting again = moe_route(logits, {.top_k = top_k}, bias);
  const Tensors wanted_grads = gradients({mixture_by_loop(x, again, experts)}, {dy}, leaves);
  for (size_t i = 0; i < leaves.size(); ++i) {
    INFO("leaf ", i);
    REQUIRE(got_grads[i].defined() == wanted_grads[i].defined());
    if (got_grads[i].defined()) check_close(got_grads[i], wanted_grads[i], f64, 30, "gradient", 1);
  }
}

}  // namespace

TEST_SUITE("ops/grouped_gemm") {
  TEST_CASE("a mixture equals a loop over its experts") {
    compare_ways(20, 4, 2);
    compare_ways(9, 5, 5);   // every expert takes every token
    compare_ways(3, 64, 2);  // most have none
    compare_ways(7, 1, 1);
    compare_ways(0, 4, 2);
    const Tensor bias = zeros({6}, {.dtype = f64});
    bias.mutable_data<double>()[4] = 100;
    compare_ways(11, 6, 1, bias);  // all to one
  }

  TEST_CASE("a mixture has the same bits for any number of threads") {
    Generator g(9);
    const Tensor x = randn({600, 64}, g), logits = randn({600, 8}, g), dy = randn({600, 64}, g);
    const Tensor bias = from_host<float>({9, 0, 0, 0, 0, 0, 0, -9}, {8});
    const Experts experts(8, 64, 48, g, f32);
    set_requires_grad(x);
    set_requires_grad(logits);
    const int before = num_threads();
    Tensors first;
    for (const int threads : {1, 2, 3, 4}) {
      set_threads(threads);
      const Tensor y = mixture(x, moe_route(logits, {.top_k = 2}, bias), experts);
      Tensors leaves = experts.leaves();
      leaves.push_back(x);
      leaves.push_back(logits);
      Tensors results = gradients({y}, {dy}, leaves);
      results.push_back(y);
      if (first.empty()) first = results;
      for (size_t i = 0; i < results.size(); ++i) {
        REQUIRE(results[i].defined() == first[i].defined());
        if (results[i].defined()) check_same_bits(results[i], first[i], "mixture");
      }
    }
    set_threads(before);
  }

  TEST_CASE("a group without rows gives its parameters no gradient, and keeps what they had") {
    Generator g(4);
    const Tensor x = randn({5, 8}, g), none = from_host<int32_t>({0, 2, 2, 5}, {4});
    Tensors weights, biases;
    for (int e = 0; e < 3; ++e) {
      weights.push_back(randn({4, 8}, g));
      biases.push_back(randn({4}, g));
      set_requires_grad(weights.back());
      set_requires_grad(biases.back());
    }
    const auto pass = [&](const Tensor& offsets) {
      backward(grouped_linear(x, weights, biases, offsets), {.gradient = ones({5, 4})});
    };
    pass(none);
    CHECK_FALSE(grad(weights[1]).defined());
    CHECK_FALSE(grad(biases[1]).defined());
    const Tensor first = raw::clone(grad(weights[0]));
    pass(from_host<int32_t>({0, 0, 5, 5}, {4}));
    check_same_bits(grad(weights[0]), first, "weight of a group that has no rows any more");
    CHECK(grad(weights[1]).defined());
    const void* memory = grad(weights[0]).data();
    const Tensor bias = raw::clone(grad(biases[0]));
    pass(none);
    raw::scale_(first, 2);
    raw::scale_(bias, 2);
    check_close(grad(weights[0]), first, f32, 10, "weight");
    check_close(grad(biases[0]), bias, f32, 10, "bias");
    CHECK(grad(weights[0]).data() == memory);
  }

  TEST_CASE("one parameter of several groups gets the sum of their gradients") {
    Generator g(5);
    const Tensor x = randn({6, 8}, g), w = randn({4, 8}, g), b = randn({4}, g);
    set_requires_grad(w);
    set_requires_grad(b);
    const Tensor dy = randn({6, 4}, g);
    const Tensor offsets = from_host<int32_t>({0, 2, 3, 6}, {4});
    const Tensors got = gradients({grouped_linear(x, {w, w, w}, {b, b, b}, offsets)}, {dy}, {w, b});
    const Tensors wanted = gradients({linear(x, w, b)}, {dy}, {w, b});
    check_close(got[0], wanted[0], f32, 10, "weight");
    check_close(got[1], wanted[1], f32, 10, "bias");
  }

  TEST_CASE("frozen experts get no gradient") {
    Generator g(6);
    const Tensor x = randn({4, 8}, g);
    const Tensors w{randn({3, 8}, g), randn({3, 8}, g)};
    set_requires_grad(w[1]);
    backward(grouped_linear(x, w, {}, even_offsets(4, 2)), {.gradient = ones({4, 3})});
    CHECK_FALSE(grad(w[0]).defined());
    CHECK(grad(w[1]).defined());
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({4, 3}, g), w = randn({5, 3}, g), b = randn({5}, g);
    const Tensor o = even_offsets(4, 2);
    const auto refuse = [&](const Tensors& ws, const Tensors& bs, const Tensor& offsets,
                            const std::vector<std::string>& parts) {
      check_error([&] { grouped_linear(x, ws, bs, offsets); }, parts);
    };
    refuse({}, {}, o, {"grouped_linear", "at least one"});
    refuse({w, randn({6, 3}, g)}, {}, o, {"grouped_linear", "weight 1", "[6,3]", "[5,3]"});
    refuse({w, randn({5, 4}, g)}, {}, o, {"grouped_linear", "[out,3]", "[5,4]"});
    refuse({w, w}, {b}, o, {"grouped_linear", "2 weights", "1 biases"});
    refuse({w, w}, {b, Tensor()}, o, {"grouped_linear", "bias 1"});
    refuse({w, w}, {b, x}, o, {"grouped_linear", "bias", "[5]"});
    refuse({w, w}, {}, even_offsets(4, 3), {"grouped_linear", "offsets i32 [3]"});
    refuse({w, w}, {}, arange(3), {"grouped_linear", "offsets i32 [3]"});
    refuse({w, w}, {}, even_offsets(3, 2), {"grouped_linear", "to the 4 rows", "0 to 3"});
    refuse({w, w}, {}, even_offsets(5, 2), {"grouped_linear", "to the 4 rows", "0 to 5"});
    refuse({w, w}, {}, from_host<int32_t>({0, 5, 4}, {3}), {"grouped_gemm", "4 after 5"});
  }
}
