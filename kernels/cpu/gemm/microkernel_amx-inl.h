#pragma once
// The AMX microkernel over any provider of the tile instructions: the CPU's, or one that computes
// the same elsewhere.
#include <olm/kernels/base/math.h>
#include <olm/kernels/cpu/gemm/microkernel.h>

namespace olm::kernels::gemm {

inline constexpr int64_t kAmxSide = 2 * kTileSide;  ///< MR and NR

/// C [32, 32] (+)= A · B. Of the eight tile registers four hold C, two A and two B: per tile along
/// K four loads for four products, so that loads hide behind them.
template <class Tiles>
void multiply_tiles(const AMicroPanel& panel, const Word* b, int64_t k_tiles, const CTile& tile,
                    Prefetch& prefetch) {
  const int64_t lines = ceil_div(prefetch.lines, k_tiles), ldc = tile.ld;
  float* c = tile.data;
  const Word* a = panel.data;
  const int64_t lda_bytes = panel.row_stride * 4, ldc_bytes = ldc * 4;
  if (tile.accumulate) {
    Tiles::template load<0>(c, ldc_bytes);
    Tiles::template load<1>(c + 16, ldc_bytes);
    Tiles::template load<2>(c + 16 * ldc, ldc_bytes);
    Tiles::template load<3>(c + 16 * ldc + 16, ldc_bytes);
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (int64_t q = 0; q < k_tiles; ++q, a += panel.tile_stride, b += 2 * kTileWords) {
    prefetch.next(lines);
    // In the order in which they are multiplied, so that the first product waits for two loads.
    Tiles::template load<4>(a, lda_bytes);
    Tiles::template load<6>(b, 64);
    Tiles::template load<7>(b + kTileWords, 64);
    Tiles::template load<5>(a + 16 * panel.row_stride, lda_bytes);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template multiply<1, 4, 7>();
    Tiles::template multiply<2, 5, 6>();
    Tiles::template multiply<3, 5, 7>();
  }
  Tiles::template store<0>(c, ldc_bytes);
  Tiles::template store<1>(c + 16, ldc_bytes);
  Tiles::template store<2>(c + 16 * ldc, ldc_bytes);
  Tiles::template store<3>(c + 16 * ldc + 16, ldc_bytes);
}

}  // namespace olm::kernels::gemm
