#pragma once
// The decisions of an optimizer step, made by one thread, the same on every device.
#include <algorithm>
#include <cmath>

#include <olm/kernels/optim.h>

namespace olm::kernels {

/// What BeginStep does to the numbers of a step. `faulty`: a kernel before it met a bad index.
OLM_HD inline void begin_step(StepScalars& s, const BeginStep& k, bool faulty) {
  s.loss = k.targets > 0 ? s.loss / k.targets : 0;
  s.aux = k.targets > 0 ? s.aux / k.targets : 0;
  s.norm *= s.gradient_scale;
  s.skip = faulty || !std::isfinite(s.loss) || s.loss > k.skip_loss_above ||
           !std::isfinite(s.norm) || s.norm > k.skip_above;
  s.clip = s.gradient_scale;
  if (s.skip) return;
  if (k.clip_norm > 0) s.clip *= std::min(1.0, k.clip_norm / (s.norm + 1e-6));
  ++s.step;
}

/// What an expert's bias becomes after it was given `load` of `total` tokens.
OLM_HD inline float moved_bias(float bias, int64_t load, int64_t total, int64_t experts,
                               double rate) {
  const int64_t missing = total - experts * load;
  const int sign = missing > 0 ? 1 : missing < 0 ? -1 : 0;
  return float(double(bias) + rate * sign);
}

}  // namespace olm::kernels
