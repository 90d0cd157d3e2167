#pragma once
// What this machine can do at most, measured in the same run as what is held against it.
#include <cstdint>
#include <string>

#include <olm/engine/json.h>
#include <olm/kernels/base/types.h>

#include "tests/support/op_case.h"
#include "tools/bench/canary.h"

namespace olm::tools {

using test::Traffic;
const char* name_of(Traffic traffic);

/// GB/s by traffic; all bytes counted once each way.
struct Bandwidth {
  double of[4] = {};
  double at(Traffic t) const { return of[size_t(t)]; }
};

/// A limit by name, such as {"DRAM copy", 24.1}.
struct Roof {
  std::string name = {};
  double rate = 0;  ///< GFLOP/s or GB/s
};

struct Roofs {
  double f32_fma = 0, bf16_dot = 0, bf16_amx = 0;  ///< GFLOP/s; 0 where the CPU has no such thing
  Bandwidth dram = {}, llc = {};                   ///< GB/s from memory, from the last-level cache
  size_t llc_bytes = 0;

  /// The fastest way to compute with operands of a dtype: GEMM, or anything.
  Roof arithmetic(DType dtype, bool gemm) const;
  /// The bandwidth for a working set of `bytes`, or from memory if it is cold.
  Roof memory(Traffic traffic, double bytes, bool cold) const;
  Json json() const;
  std::string text() const;
};

/// Size of the last-level cache of one core's neighbourhood.
size_t last_level_cache();
/// Measures all of them; `how` is for each single one.
Roofs measure_roofs(int threads, Gate& gate, const Series& how);

}  // namespace olm::tools
