#pragma once
// Random masks.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Inverted dropout: y[i] = x[i] / (1 - p) where element i is kept, else 0. Element i is kept if
/// to_uniform(philox_word(seed, base + offset + i)) >= p, whatever the dtype or device, where base
/// is the number at stream.rng_base. The derivative is the same call on dy, from the same base.
///   x, y: [n] of `dtype`    p in [0, 1]
struct Dropout {
  static constexpr const char* name = "dropout";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t n = 0;
  double p = 0;
  uint64_t seed = 0, offset = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const Dropout&);
OLM_API void run(Cuda, const Dropout&);

}  // namespace olm::kernels
