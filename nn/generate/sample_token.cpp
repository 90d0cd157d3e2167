#include <algorithm>
#include <cmath>
#include <numeric>

#include <olm/nn/generate.h>

namespace olm::nn {

int32_t sample_token(std::span<const float> logits, const GenerateOptions& o, Generator& rng) {
  require(!logits.empty(), "sample_token: no logits");
  require(o.temperature >= 0, "sample_token: temperature wants at least 0, got ", o.temperature);
  require(o.top_k >= 0, "sample_token: top_k wants at least 0, got ", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "sample_token: top_p wants a part in (0, 1], got ", o.top_p);
  for (size_t i = 0; i < logits.size(); ++i)
    require(!std::isnan(logits[i]) && logits[i] < INFINITY, "sample_token: logit ", i, " is ",
            logits[i], ", a finite number was wanted");
  const auto best = std::max_element(logits.begin(), logits.end());
  if (o.temperature == 0) return int32_t(best - logits.begin());

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
  while (kept < weights.size() && (kept == 0 || reached < o.top_p * total))
    reached += weights[kept++];

  double left = rng.uniform() * reached;
  for (size_t i = 0; i + 1 < kept; ++i) {
    if (left < weights[i]) return order[i];
    left -= weights[i];
  }
  return order[kept - 1];
}

}  // namespace olm::nn
