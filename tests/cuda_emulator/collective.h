#pragma once
// Where the lanes of a warp meet.
#include <array>
#include <cstdint>

#include <tests/cuda_emulator/block.h>

namespace olm::cuda_emulator {

/// Lanes of one warp that have come to one collective.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  const char* name = "";
  std::array<void*, kWarp> arguments;  ///< of the lanes that have arrived

  template <class T>
  T& argument(int lane) const {
    return *static_cast<T*>(arguments[size_t(lane)]);
  }
  /// f(lane) for each lane of the mask.
  template <class F>
  void for_each(F&& f) const {
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) f(__builtin_ctz(rest));
  }
};

/// Waits until all lanes of `mask` have come with the same `name`, a string literal; the last one
/// calls `complete`, which reads and writes everybody's arguments.
void meet(const char* name, unsigned mask, void* argument, void (*complete)(const Meeting&));

}  // namespace olm::cuda_emulator
