// Random ops on random shapes and strides, on the device under test against the CPU: results and
// gradients, and the same bits when they are made again. The seeds are fixed.
#include <doctest/doctest.h>

#include <functional>

#include <olm/autograd/ops.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// What a case is drawn from.
struct Draw {
  Generator g;
  DType dtype;
  int64_t number(int64_t low, int64_t high) { return low + g.below(high - low + 1); }
  bool coin() { return g.below(2) == 0; }
  /// Mostly small, often rows of whole vectors, at times 0, 1 or more than a warp.
  int64_t size() {
    const int64_t kind = number(0, 9);
    if (kind < 4) return 8 * number(1, 5);
    return kind == 4 ? number(0, 1) : kind == 5 ? number(30, 70) : number(1, 17);
  }
  Shape shape() {
    const int rank = number(0, 9) == 0 ? 8 : int(number(1, 3));
    Shape s;
    for (int i = 0; i < rank; ++i) s.push_back(rank == 8 ? number(1, 3) : size());
    return s;
  }
  /// A shape that broadcasts to s.
  Shape part_of(Shape s) {
    for (int i = 0; i < s.rank(); ++i)
      if (coin()) s[i] = 1;
    return s;
  }
  Tensor values(const Shape& s, DType of) { return raw::cast(randn(s, g), of); }
};

/// A window onto memory of the CPU, and whether a gradient with respect to it is wanted.
struct Input {
  Tensor window;
  bool has_gradient = false;
  /// The same window onto a copy of that memory there.
  Tensor on(Device device) const {
    const auto n = int64_t(window.impl().storage->bytes() / size_of(window.dtype()));
    const Tensor memory = raw::clone(raw::as_strided(window, {n}, {1}, 0));
    const Tensor x = raw::as_strided(raw::to(memory, device), window.shape(), window.strides(),
                                     window.storage_offset());
    if (has_gradient) set_requires_grad(x);
    return x;
  }
};

/// Values in order, in order from an odd place on, every second one of a row, transposed, or
/// repeated.
Input floats(Draw& d, const Shape& shape, DType dtype) {
  Shape of_memory = shape;
  const int last = shape.rank() - 1;
  switch (d.number(0, 7)) {
    case 0:
    case 1:
      return {raw::view(raw::slice(d.values({shape.numel() + 3}, dtype), 0, 3, shape.numel() + 3),
                        shape),
              true};
    case 2:
      of_memory[last] = 2 * shape[last] + 1;
      return {raw::slice(d.values(of_memory, dtype), -1, 1, of_memory[last], 2), true};
    case 3:
      std::swap(of_memory[0], of_memory[last]);
      return {raw::transpose(d.values(of_memory, dtype), 0, last), true};
    case 4:
      of_memory[0] = 1;
      return {raw::expand(d.values(of_memory, dtype), shape), true};
    default:
      return {d.values(shape, dtype), true};
  }
}
Input floats(Draw& d, const Shape& shape) { return floats(d, shape, d.dtype); }
Input ids(Draw& d, const Shape& shape, int64_t bound) {
  return {randint(0, bound, shape, d.g, {.dtype = d.coin() ? i32 : i64})};
}

struct Case {
  std::vector<Input> inputs;
  std::function<Tensors(const Tensors&)> call;
  double length = 16;  // of its sums
};

Case pointwise(Draw& d) {
  const Shape s = d.shape();
  return {{floats(d, s), floats(d, d.part_of(s))}, [](const Tensors& t) {
            return Tensors{t[0] * t[1], maximum(t[1], t[0]), gelu_tanh(t[0]), le(t[0], t[1])};
          }};
}
Case reduce(Draw& d) {
  const Shape s = d.number(0, 5) == 0 ? Shape{d.number(1, 3), 5003} : d.shape();
  const int64_t dim = d.number(-s.rank(), s.rank() - 1);
  return {
      {floats(d, s)},
      [=](const Tensors& t) {
        return Tensors{sum(t[0], dim), logsumexp(t[0], dim), cumsum(t[0], dim), softmax(t[0], dim)};
      },
      2048};
}
Case order(Draw& d) {
  const Shape s = d.shape();
  const int64_t dim = d.number(-s.rank(), s.rank() - 1),
                k = d.number(0, 1) * s[normalize_dim("", dim, s.rank())];
  return {{floats(d, s)}, [=](const Tensors& t) {
            const Sorted some = topk(t[0], k, dim), all = sort(t[0], dim);
            return Tensors{some.values, some.indices, all.values, all.indices};
          }};
}
Case norms(Draw& d) {
  const Shape s = d.shape(), cols{s.back()};
  return {{floats(d, s), floats(d, s), floats(d, cols, f32), floats(d, cols)},
          [](const Tensors& t) {
            const SumAndNorm r = add_rms_norm(t[0], t[1], t[2]);
            return Tensors{r.sum, r.y, layer_norm(t[0], t[3], t[3], 1e-2)};
          },
          256};
}
Case rows(Draw& d) {
  const int64_t count = d.number(1, 50), width = d.size(), n = d.size();
  return {{floats(d, {count, width}), ids(d, {n}, count), floats(d, {n, width})},
          [=](const Tensors& t) {
            const Tensor index = expand(unsqueeze(t[1], 1), {n, width});
            return Tensors{embedding(t[1], t[0]), index_select(t[0], 0, t[1]),
                           scatter_add(t[0], 0, index, t[2])};
          }};
}
Case affine(Draw& d) {
  const int64_t m = d.size(), k = d.size(), n = d.size();
  return {{floats(d, {2, m, k}), floats(d, {n, k}), floats(d, {n}), floats(d, {2, m, n})},
          [](const Tensors& t) {
            return Tensors{matmul(t[0], transpose(t[1], 0, 1)),
                           linear(t[0], t[1], t[2], {Activation::gelu_tanh, t[3]})};
          },
          1024};
}
Case losses(Draw& d) {
  const int64_t rows = d.size(), classes = d.number(1, 90), width = d.number(1, 40);
  return {{floats(d, {rows, width}), floats(d, {classes, width}), ids(d, {rows}, classes)},
          [](const Tensors& t) {
            const CrossEntropyOptions o{.ignore_index = 0, .label_smoothing = 0.1, .z_loss = 0.01};
            return Tensors{linear_cross_entropy(t[0], t[1], t[2], {.softcap = 5, .loss = o})};
          },
          4096};
}
Case attention(Draw& d) {
  const int64_t queries = d.size(), keys = d.size(), heads = d.number(1, 3),
                width = d.number(1, 80);
  FlashAttentionOptions o{.causal = d.coin(), .offset = d.number(-3, 9)};
  o.window = d.coin() ? d.number(1, 9) : 0;
  o.softcap = d.coin() ? 4 : 0;
  const bool has_mask = d.coin(), has_sink = d.coin();
  // Never one value for all keys: softmax ignores such, and of its gradient rounding alone is left.
  Shape mask = d.part_of({2, 2 * heads, queries, keys});
  mask[3] = keys;
  return {{floats(d, {2, queries, 2 * heads, width}), floats(d, {2, keys, heads, width}),
           floats(d, {2, keys, heads, width}), floats(d, mask), floats(d, {2 * heads}, f32)},
          [=](const Tensors& t) {
            FlashAttentionOptions all = o;
            if (has_mask) all.mask = t[3];
            if (has_sink) all.sink = t[4];
            return Tensors{flash_attention(t[0], t[1], t[2], all)};
          },
          4096};
}
Case experts(Draw& d) {
  const int64_t tokens = d.size(), count = d.number(1, 9), width = d.number(1, 20);
  Case c{{ids(d, {tokens, 2}, d.coin() ? count : 1), floats(d, {tokens, width}),
          floats(d, {tokens, 2}, f32)},
         [=](const Tensors& t) {
           const MoEPermutation order = moe_sort(t[0], count);
           const Tensor y = grouped_linear(moe_permute(t[1], order), {t.begin() + 3, t.end()}, {},
                                           order.offsets, Activation::silu);
           return Tensors{moe_combine(y, t[2], order), order.rows, order.offsets};
         },
         1024};
  for (int64_t e = 0; e < count; ++e) c.inputs.push_back(floats(d, {7, width}));
  return c;
}

/// Results, then gradients; of float results, weighted by dys, which are drawn where there are
/// none.
Tensors compute(const Case& c, Device device, Tensors& dys, Draw& d) {
  Tensors inputs, wanted, ys, all;
  for (const Input& input : c.inputs) {
    inputs.push_back(input.on(device));
    if (input.has_gradient) wanted.push_back(inputs.back());
  }
  for (const Tensor& y : c.call(inputs)) {
    all.push_back(raw::to(y, cpu));
    if (requires_grad(y)) ys.push_back(y);
  }
  for (size_t i = dys.size(); i < ys.size(); ++i)
    dys.push_back(d.values(ys[i].shape(), ys[i].dtype()));
  Tensors weights;
  for (const Tensor& dy : dys) weights.push_back(raw::to(dy, device));
  const Tensors grads = gradients(ys, weights, wanted);
  for (size_t i = 0; i < grads.size(); ++i)  // an idle expert has none on the CPU alone
    all.push_back(grads[i].defined() ? raw::to(grads[i], cpu)
                                     : zeros(wanted[i].shape(), {.dtype = wanted[i].dtype()}));
  return all;
}

void check_cases(DType dtype) {
  if (test_device() == cpu) return;
  const std::vector<std::pair<const char*, Case (*)(Draw&)>> kinds{
      {"pointwise", pointwise}, {"reduce", reduce},       {"order", order},
      {"norms", norms},         {"rows", rows},           {"affine", affine},
      {"losses", losses},       {"attention", attention}, {"experts", experts}};
  for (const auto& [name, make] : kinds)
    for (uint64_t seed = 1; seed <= 16; ++seed) {
      Draw d{Generator(derive_seed(seed, name)), dtype};
      const Case c = make(d);
      Tensors dys;
      const Tensors host = compute(c, cpu, dys, d), card = compute(c, test_device(), dys, d);
      const Tensors again = compute(c, test_device(), dys, d);
      for (size_t i = 0; i < host.size(); ++i) {
        const std::string what = detail::concat(name, " ", seed, ", number ", i);
        if (is_float(host[i].dtype()))
          check_close(card[i], host[i], dtype, c.length, what, 1);
        else
          check_same_bits(card[i], host[i], what);
        check_same_bits(again[i], card[i], what);
      }
    }
}

}  // namespace

TEST_SUITE("kernels/cuda/random_shapes") {
  TEST_CASE("f32 follows the CPU") { check_cases(f32); }
  TEST_CASE("bf16 follows the CPU") { check_cases(bf16); }
  TEST_CASE("f16 follows the CPU") { check_cases(f16); }
}
