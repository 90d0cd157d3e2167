#pragma once
// What attention is tested on: its definition in plain loops, and a call for every option.
#include <olm/autograd/ops/flash_attention.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <olm/engine/raw.h>

namespace olm::test {

struct Sizes {
  int64_t b = 2, t = 5, s = 5, h = 4, hkv = 2, dqk = 6, dv = 6;
};

/// Attention written down as it is defined, one query at a time, with the weights of every query.
inline std::vector<double> attention_by_definition(const Sizes& n, const std::vector<double>& q,
                                                   const std::vector<double>& k,
                                                   const std::vector<double>& v,
                                                   const FlashAttentionOptions& o) {
  const auto slopes = o.slopes.defined() ? to_host<double>(o.slopes) : std::vector<double>();
  const auto sink = o.sink.defined() ? to_host<double>(o.sink) : std::vector<double>();
  const Shape scores{n.b, n.h, n.t, n.s};
  const auto mask =
      o.mask.defined() ? to_host<double>(raw::expand(o.mask, scores)) : std::vector<double>();
  const auto docs = o.documents.defined() ? to_host<int64_t>(o.documents) : std::vector<int64_t>();
  const auto key_docs = o.key_documents.defined() ? to_host<int64_t>(o.key_documents) : docs;
  const auto lengths =
      o.key_lengths.defined() ? to_host<int64_t>(o.key_lengths) : std::vector<int64_t>();
  const double scale = o.scale ? o.scale : 1 / std::sqrt(double(n.dqk));
  std::vector<double> y(size_t(n.b * n.t * n.h * n.dv));
  for (int64_t b = 0; b < n.b; ++b)
    for (int64_t h = 0; h < n.h; ++h)
      for (int64_t i = 0; i < n.t; ++i) {
        const int64_t kv = h / (n.h / n.hkv), position = i + o.offset;
        std::vector<double> s(size_t(n.s), -INFINITY);
        for (int64_t j = 0; j < n.s; ++j) {
          const size_t at = size_t(((b * n.h + h) * n.t + i) * n.s + j);
          if (o.causal && j > position) continue;
          if (o.window && std::abs(position - j) >= o.window) continue;
          if (!lengths.empty() && j >= lengths[size_t(b)]) continue;
          if (!docs.empty() && docs[size_t(b * n.t + i)] != key_docs[size_t(b * n.s + j)]) continue;
          if (o.mask.defined() && o.mask.dtype() == boolean && mask[at] == 0) continue;
          double dot = 0;
          for (int64_t c = 0; c < n.dqk; ++c)
            dot += q[size_t(((b * n.t + i) * n.h + h) * n.dqk + c)] *
                   k[size_t(((b * n.s + j) * n.hkv + kv) * n.dqk + c)];
          dot *= scale;
          if (o.softcap) dot = o.softcap * std::tanh(dot / o.softcap);
          if (!slopes.empty()) dot -= slopes[size_t(h)] * double(std::abs(position - j));
          if (o.mask.defined() && o.mask.dtype() != boolean) dot += mask[at];
          s[size_t(j)] = dot;
        }
        double most = sink.empty() ? -INFINITY : sink[size_t(h)];
        for (const double x : s) most = std::max(most, x);
        if (most == -INFINITY) continue;
        double sum = sink.empty() ? 0 : std::exp(sink[size_t(h)] - most);
        for (const double x : s) sum += std::exp(x - most);
        for (int64_t j = 0; j < n.s; ++j)
          for (int64_t c = 0; c < n.dv; ++c)
            y[size_t(((b * n.t + i) * n.h + h) * n.dv + c)] +=
                std::exp(s[size_t(j)] - most) / sum *
                v[size_t(((b * n.s + j) * n.hkv + kv) * n.dv + c)];
      }
  return y;
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

}  // namespace olm::test
