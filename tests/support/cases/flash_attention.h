#pragma once
// Attention by its definition, and a call for every option.
#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/flash_attention.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/softmax.h>
#include <olm/autograd/ops/view.h>
#include <olm/autograd/ops/where.h>

#include <tests/support/op_case.h>

namespace olm::test {

struct Sizes {
  int64_t b = 2, t = 5, s = 5, h = 4, hkv = 2, dqk = 6, dv = 6;
};

/// Which keys a query may attend, broadcasting to [B,H,T,S].
inline Tensor allowed_keys(const FlashAttentionOptions& o, const Tensor& distance, int64_t batch) {
  const int64_t t = distance.size(0), s = distance.size(1);
  Tensor allowed = eq(distance, distance);
  if (o.causal) allowed = logical_and(allowed, ge(distance, 0));
  if (o.window) allowed = logical_and(allowed, lt(abs(distance), double(o.window)));
  if (o.key_lengths.defined())
    allowed = logical_and(allowed, lt(arange(s), reshape(o.key_lengths, {batch, 1, 1, 1})));
  if (o.documents.defined()) {
    const Tensor& keys = o.key_documents.defined() ? o.key_documents : o.documents;
    allowed = logical_and(
        allowed, eq(reshape(o.documents, {batch, 1, t, 1}), reshape(keys, {batch, 1, 1, s})));
  }
  if (o.mask.defined() && o.mask.dtype() == boolean) allowed = logical_and(allowed, o.mask);
  return allowed;
}

/// Attention as it is defined, with the scores of every query on every key; without dropout.
inline Tensor attention_of_small_ops(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const FlashAttentionOptions& o) {
  const int64_t batch = q.size(0), t = q.size(1), h = q.size(2), s = k.size(1), hkv = k.size(2);
  const auto heads = [&](const Tensor& x) {  // [B,S,Hkv,D] to [B,H,S,D]
    const int64_t d = x.size(3);
    return flatten(expand(unsqueeze(transpose(x, 1, 2), 2), {batch, hkv, h / hkv, x.size(1), d}), 1,
                   2);
  };
  const double scale = o.scale ? o.scale : 1 / std::sqrt(double(q.size(3)));
  Tensor scores = matmul(transpose(q, 1, 2), transpose(heads(k), -1, -2)) * scale;
  if (o.softcap) scores = tanh(scores / o.softcap) * o.softcap;
  const Tensor positions = raw::cast(arange(t), q.dtype()) + double(o.offset);
  const Tensor distance = unsqueeze(positions, 1) - raw::cast(arange(s), q.dtype());
  if (o.slopes.defined()) scores = scores - reshape(o.slopes, {h, 1, 1}) * abs(distance);
  if (o.mask.defined() && o.mask.dtype() != boolean) scores = scores + o.mask;
  scores = where(allowed_keys(o, distance, batch), scores, -INFINITY);
  if (o.sink.defined())
    scores = cat({scores, expand(reshape(o.sink, {h, 1, 1}), {batch, h, t, 1})}, -1);
  const Tensor weights = slice(softmax(scores), -1, 0, s);  // a row of -inf gives 0
  return transpose(matmul(weights, heads(v)), 1, 2);
}

/// A call of the op: sizes, and options made from what is differentiated beside q, k and v.
struct Setup {
  std::string name;
  Sizes n = {};
  std::function<FlashAttentionOptions(Generator&)> options = [](Generator&) {
    return FlashAttentionOptions{};
  };
};

inline Tensor boolean_mask(const Shape& shape, Generator& g, double keep) {
  const Tensor u = uniform(shape, g, {.dtype = f64});
  const std::vector<double> values = to_host<double>(u);
  const Tensor mask = zeros(shape, {.dtype = boolean});
  bool* m = mask.mutable_data<bool>();
  for (size_t i = 0; i < values.size(); ++i) m[i] = values[i] < keep;
  return mask;
}

inline Tensor documents(int64_t b, int64_t t, int64_t length) {
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < b; ++r)
    for (int64_t i = 0; i < t; ++i) ids.push_back((i + r) / length);
  return from_host(ids, {b, t});
}

/// Every option but masks at size t by s.
inline std::vector<Setup> setups_without_mask(int64_t t, int64_t s) {
  const Sizes n{.t = t, .s = s};
  const TensorOptions o{.dtype = f64};
  using G = Generator;
  using O = FlashAttentionOptions;
  Sizes other = n, plain = n, wide = n;
  other.dqk = 10, other.dv = 3;
  plain.hkv = 4;
  wide.h = 1, wide.hkv = 1, wide.b = 1, wide.dqk = 33, wide.dv = 17;
  return {
      {"plain", plain, [](G&) { return O{}; }},
      {"grouped", n, [](G&) { return O{.scale = 0.3}; }},
      {"causal", n, [](G&) { return O{.causal = true}; }},
      {"causal, other value size", other, [](G&) { return O{.causal = true}; }},
      {"one head, odd sizes", wide, [](G&) { return O{.causal = true}; }},
      {"causal with offset", n, [](G&) { return O{.causal = true, .offset = 3}; }},
      {"rows with no keys", n, [](G&) { return O{.causal = true, .offset = -2}; }},
      {"window", n, [](G&) { return O{.window = 3}; }},
      {"causal window", n, [](G&) { return O{.causal = true, .offset = 1, .window = 2}; }},
      {"softcap", n, [](G&) { return O{.causal = true, .scale = 1, .softcap = 1.5}; }},
      {"slopes", n, [=](G& g) { return O{.causal = true, .slopes = uniform({n.h}, g, o)}; }},
      {"sink", n, [=](G& g) { return O{.causal = true, .sink = randn({n.h}, g, o)}; }},
      {"sink for rows with no keys", n,
       [=](G& g) { return O{.causal = true, .offset = -2, .sink = randn({n.h}, g, o)}; }},
  };
}

/// Masks of every kind, what else takes keys away, and everything at once.
inline std::vector<Setup> setups_with_mask(int64_t t, int64_t s) {
  const Sizes n{.t = t, .s = s};
  const TensorOptions o{.dtype = f64};
  using G = Generator;
  using O = FlashAttentionOptions;
  return {
      {"boolean mask", n,
       [=](G& g) {
         return O{.mask = boolean_mask({n.b, 1, t, s}, g, 0.5)};
       }},
      {"boolean mask of keys", n, [=](G& g) { return O{.mask = boolean_mask({s}, g, 0.5)}; }},
      {"mask that is false", n,
       [=](G& g) {
         return O{.mask = boolean_mask({t, s}, g, 0)};
       }},
      {"added mask", n,
       [=](G& g) {
         return O{.mask = randn({n.b, n.h, t, s}, g, o)};
       }},
      {"added mask, by query and key", n,
       [=](G& g) {
         return O{.causal = true, .mask = randn({t, s}, g, o)};
       }},
      {"added mask, by head and key", n,
       [=](G& g) {
         return O{.softcap = 2, .mask = randn({n.h, 1, s}, g, o)};
       }},
      {"added mask, by row and query", n,
       [=](G& g) {
         return O{.window = 4, .mask = randn({n.b, 1, t, 1}, g, o)};
       }},
      {"documents", n,
       [=](G&) {
         return O{
             .causal = true, .documents = documents(2, t, 3), .key_documents = documents(2, s, 3)};
       }},
      {"lengths", n,
       [=](G&) {
         return O{.key_lengths = from_host<int64_t>({s / 2, 0}, {2})};
       }},
      {"everything", n,
       [=](G& g) {
         return O{.causal = true,
                  .offset = 2,
                  .window = 40,
                  .scale = 0.7,
                  .softcap = 3,
                  .slopes = uniform({n.h}, g, o),
                  .sink = randn({n.h}, g, o),
                  .mask = randn({n.h, t, s}, g, o),
                  .documents = documents(2, t, 20),
                  .key_documents = documents(2, s, 20),
                  .key_lengths = from_host<int64_t>({s, s - s / 4}, {2})};
       }},
  };
}

/// Every option at size t by s.
inline std::vector<Setup> setups(int64_t t, int64_t s) {
  std::vector<Setup> all = setups_without_mask(t, s);
  for (Setup& setup : setups_with_mask(t, s)) all.push_back(std::move(setup));
  return all;
}

/// The tensors that options may hold, in the order they have among inputs.
inline constexpr Tensor FlashAttentionOptions::*kOptionTensors[] = {
    &FlashAttentionOptions::slopes,        &FlashAttentionOptions::sink,
    &FlashAttentionOptions::mask,          &FlashAttentionOptions::documents,
    &FlashAttentionOptions::key_documents, &FlashAttentionOptions::key_lengths};

/// `options` with the tensors it has replaced by those after q, k and v.
inline FlashAttentionOptions with_tensors(FlashAttentionOptions options, const Tensors& inputs) {
  size_t next = 3;
  for (const auto member : kOptionTensors)
    if ((options.*member).defined()) options.*member = inputs[next++];
  return options;
}

/// The i-th of `setups`, of n queries. How many keys there are differs from that for some n.
inline OpCase attention_case(size_t i) {
  const auto setup_of = [i](int64_t n) {
    const std::map<int64_t, int64_t> keys{{1, 130},  {3, 7},    {7, 4},    {33, 70},
                                          {65, 200}, {131, 33}, {200, 330}};
    const auto other = keys.find(n);
    return setups(n, other == keys.end() ? n : other->second)[i];
  };
  Generator rng(21);
  const Setup setup = setup_of(5);
  const FlashAttentionOptions options = setup.options(rng);
  OpCase c{.name = setup.name};
  c.inputs = [=](Generator& g, const Shape& shape) {
    const Setup own = setup_of(shape[0]);
    const Sizes& n = own.n;
    const FlashAttentionOptions o = own.options(g);
    Tensors in{randn({n.b, n.t, n.h, n.dqk}, g), randn({n.b, n.s, n.hkv, n.dqk}, g),
               randn({n.b, n.s, n.hkv, n.dv}, g)};
    for (const auto member : kOptionTensors)
      if ((o.*member).defined()) in.push_back(o.*member);
    return in;
  };
  c.op = [=](const Tensors& in) {
    return flash_attention(in[0], in[1], in[2], with_tensors(options, in));
  };
  c.composition = [=](const Tensors& in) {
    return attention_of_small_ops(in[0], in[1], in[2], with_tensors(options, in));
  };
  size_t next = 3;
  if (options.slopes.defined()) c.fixed.push_back(next), c.parameters.push_back(next++);
  if (options.sink.defined()) c.parameters.push_back(next);
  c.reduction = [](int64_t n) { return 80.0 * double(n); };
  c.cancelling = 0.1;
  c.gradient_cancelling = 1;
  c.sizes = {1, 31, 33, 65, 130, 131};
  c.gradient_sizes = {5, 3, 7};
  c.vector_size = 130;
  c.parallel = {200};
  return c;
}

/// A case for every option.
inline OpCases attention_cases() {
  OpCases all;
  for (size_t i = 0; i < setups(5, 5).size(); ++i) all.push_back(attention_case(i));
  return all;
}

/// Causal attention of as many queries as keys, the shape being [B,H,T,D]; only the half of the
/// GEMM that causality leaves is counted.
inline OpCase causal_attention_case() {
  const FlashAttentionOptions options{.causal = true};
  return {
      .name = "flash_attention",
      .shape = {2, 3, -1, 16},
      .inputs =
          [](Generator& g, const Shape& s) {
            const auto heads = [&] { return randn({s[0], s[2], s[1], s[3]}, g); };
            return Tensors{heads(), heads(), heads()};
          },
      .op = [=](const Tensors& in) { return flash_attention(in[0], in[1], in[2], options); },
      .composition =
          [=](const Tensors& in) { return attention_of_small_ops(in[0], in[1], in[2], options); },
      .cancelling = 0.1,
      .gradient_cancelling = 1,
      .sizes = {0, 1, 31, 130},
      .vector_size = 130,
      .parallel = {2, 3, 200, 16},
      .cost =
          [](const Shape& s, DType dtype) {
            const double rows = double(s[0] * s[1] * s[2]), d = double(s[3]);
            const double one = rows * double(s[2]) * d;  // GEMM, causal
            const auto cost = [&](double gemms, double tensors) {
              return Cost{.flop = gemms * one,
                          .bytes = tensors * rows * d * double(size_of(dtype)),
                          .traffic = Traffic::axpy,
                          .gemm = true};
            };
            return Costs{.forward = cost(2, 4), .both = cost(7, 12)};
          }};
}

}  // namespace olm::test
