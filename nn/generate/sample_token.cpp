#include <algorithm>
#include <cmath>
#include <numeric>

#include <olm/nn/generate.h>

namespace olm::nn {

namespace {

/// Tokens to draw from, likeliest first, with numbers in proportion to their probabilities.
struct Weighted {
  std::vector<int32_t> ids = {};
  std::vector<double> weights = {};
  double total = 0;
};

void check(std::span<const float> logits, const GenerateOptions& o) {
  require(!logits.empty(), "sample_token: no logits");
  require(o.temperature >= 0, "sample_token: temperature wants at least 0, got ", o.temperature);
  require(o.top_k >= 0, "sample_token: top_k wants at least 0, got ", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "sample_token: top_p wants a part in (0, 1], got ", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "sample_token: min_p wants a part in [0, 1], got ",
          o.min_p);
  for (size_t i = 0; i < logits.size(); ++i)
    require(!std::isnan(logits[i]) && logits[i] < INFINITY, "sample_token: logit ", i, " is ",
            std::abs(logits[i]), ", a finite number was wanted");  // a NaN without its sign
  require(*std::max_element(logits.begin(), logits.end()) > -INFINITY,
          "sample_token: every logit is -inf, so that no token can be drawn");
}

Weighted weighted(std::span<const float> logits, const GenerateOptions& o) {
  check(logits, o);
  const auto best = std::max_element(logits.begin(), logits.end());
  if (o.temperature == 0) return {{int32_t(best - logits.begin())}, {1}, 1};

  // Likeliest first, equal ones by id, so that a draw does not depend on the way of sorting.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) {
    const float x = logits[size_t(a)], y = logits[size_t(b)];
    return x != y ? x > y : a < b;
  };
  if (o.top_k > 0 && size_t(o.top_k) < order.size()) {
    std::nth_element(order.begin(), order.begin() + o.top_k - 1, order.end(), likelier);
    order.resize(size_t(o.top_k));
  }
  std::sort(order.begin(), order.end(), likelier);

  std::vector<double> weights;
  for (const int32_t id : order)
    weights.push_back(std::exp((double(logits[size_t(id)]) - double(*best)) / o.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t kept = 0;
  double reached = 0;
  // The weight of the likeliest is 1.
  while (kept < weights.size() &&
         (kept == 0 || (reached < o.top_p * total && weights[kept] >= o.min_p)))
    reached += weights[kept++];
  order.resize(kept);
  weights.resize(kept);
  return {std::move(order), std::move(weights), reached};
}

}  // namespace

void penalize_repetition(std::span<float> logits, std::span<const int32_t> ids, double penalty) {
  require(penalty > 0 && std::isfinite(penalty),
          "repetition_penalty: wants a finite number above 0, got ", penalty);
  if (penalty == 1) return;
  std::vector<bool> done(logits.size(), false);
  for (const int32_t id : ids) {
    require(id >= 0 && size_t(id) < logits.size(), "repetition_penalty: there are ", logits.size(),
            " logits, got id ", id);
    if (done[size_t(id)]) continue;
    done[size_t(id)] = true;
    float& logit = logits[size_t(id)];
    logit = float(logit > 0 ? double(logit) / penalty : double(logit) * penalty);
  }
}

std::vector<Candidate> candidates(std::span<const float> logits, const GenerateOptions& options) {
  const Weighted w = weighted(logits, options);
  std::vector<Candidate> result;
  for (size_t i = 0; i < w.ids.size(); ++i) result.push_back({w.ids[i], w.weights[i] / w.total});
  return result;
}

int32_t sample_token(std::span<const float> logits, const GenerateOptions& options,
                     Generator& rng) {
  if (options.temperature == 0) return weighted(logits, options).ids.front();
  const Weighted w = weighted(logits, options);
  double left = rng.uniform() * w.total;
  for (size_t i = 0; i + 1 < w.ids.size(); ++i) {
    if (left < w.weights[i]) return w.ids[i];
    left -= w.weights[i];
  }
  return w.ids.back();
}

}  // namespace olm::nn
