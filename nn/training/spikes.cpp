#include <algorithm>
#include <cmath>
#include <limits>

#include <olm/nn/training.h>

namespace olm::nn {

double SpikeStatistics::limit(double factor) const {
  constexpr int64_t kMinSteps = 50;
  if (factor <= 0 || count < kMinSteps) return std::numeric_limits<double>::infinity();
  // A loss that hardly moves has a tiny deviation: a hundredth of the mean is always allowed for.
  return mean + factor * std::max(deviation, 0.01 * std::abs(mean));
}

void SpikeStatistics::take(double loss) {
  constexpr double kKeep = 0.98;
  // The first losses are averaged plainly, so that the start does not weigh for long.
  const double keep = std::min(kKeep, double(count) / double(count + 1));
  const double distance = count == 0 ? 0 : std::abs(loss - mean);
  mean = keep * mean + (1 - keep) * loss;
  deviation = keep * deviation + (1 - keep) * distance;
  ++count;
  in_a_row = 0;
}

}  // namespace olm::nn
