#pragma once
// The AMX microkernel over tile instructions that are computed in plain loops: for tests on CPUs
// without them.
#include <atomic>
#include <cstring>

#include <olm/kernels/cpu/gemm/microkernel_amx-inl.h>

namespace olm::kernels::gemm {

/// What the tile instructions do, in plain loops.
struct EmulatedTiles {
  static inline thread_local Word tile[8][kTileWords];
  template <int t>
  static void zero() {
    std::memset(tile[t], 0, sizeof tile[t]);
  }
  template <int t>
  static void load(const void* p, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r)
      std::memcpy(tile[t] + 16 * r, static_cast<const char*>(p) + r * stride, 64);
  }
  template <int t>
  static void store(void* p, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r)
      std::memcpy(static_cast<char*>(p) + r * stride, tile[t] + 16 * r, 64);
  }
  static float half(Word w, int which) {
    const Word bits = which ? w & 0xffff0000u : w << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  }
  template <int sum, int a, int b>
  static void multiply() {
    for (int r = 0; r < 16; ++r)
      for (int c = 0; c < 16; ++c) {
        float s;
        std::memcpy(&s, &tile[sum][16 * r + c], sizeof s);
        for (int p = 0; p < 16; ++p)
          for (const int which : {0, 1})
            s += half(tile[a][16 * r + p], which) * half(tile[b][16 * p + c], which);
        std::memcpy(&tile[sum][16 * r + c], &s, sizeof s);
      }
  }
};

inline std::atomic<int> entered = 0;
/// With small block sizes, so that small shapes go through all the loops.
inline const MicroKernel kEmulated{.name = "emulated AMX",
                                   .packed = bf16,
                                   .mr = kAmxSide,
                                   .nr = kAmxSide,
                                   .kc = 64,
                                   .task_nc = 128,
                                   .full_tiles = true,
                                   .enter = [] { ++entered; },
                                   .leave = [] { --entered; },
                                   .run = multiply_tiles<EmulatedTiles>};

}  // namespace olm::kernels::gemm
