#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// Inverted dropout (Srivastava et al. 2014): each element becomes 0 with probability p, and is
/// divided by 1 - p otherwise.
///   x: [...]    y: like x    p in [0, 1]: 0 returns x, 1 returns zeros
/// The mask depends on the state of `rng` and the element's position alone, not on dtype, device or
/// threads; it is made again in backward instead of kept. Takes numel(x) words of `rng`. Throws if
/// p is outside [0, 1].
OLM_API Tensor dropout(const Tensor& x, double p, Generator& rng);

}  // namespace olm
