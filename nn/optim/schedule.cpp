#include <algorithm>
#include <cmath>
#include <numbers>

#include <olm/nn/optim.h>

namespace olm::nn {

double Schedule::at(int64_t step) const {
  require(step >= 0, "schedule: wanted a step >= 0, got ", step);
  require(kind == "constant" || kind == "linear" || kind == "cosine" || kind == "wsd",
          "schedule: \"", kind, "\" is unknown; known are constant, linear, cosine, wsd");
  if (step < warmup_steps)
    return lr * double(step + 1) / double(std::max<int64_t>(1, warmup_steps));
  if (kind == "constant") return lr;
  int64_t start = warmup_steps;
  if (kind == "wsd") start = std::max(start, total_steps - decay_steps);
  const double length = double(std::max<int64_t>(1, total_steps - start));
  const double u = std::clamp(double(step - start) / length, 0.0, 1.0);
  if (kind == "cosine") return min_lr + (lr - min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * u));
  return lr + (min_lr - lr) * u;
}

}  // namespace olm::nn
