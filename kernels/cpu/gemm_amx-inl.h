#pragma once
// The inner product on tiles, over any provider of the tile instructions: the CPU's, or one that
// computes the same elsewhere.
#include <olm/kernels/cpu/gemm_tiles.h>

namespace olm::kernels::gemm_tiles {

/// c[32, 32] (+)= strip of A · strip of B, each of 32: four tiles of sums, two of A, two of B. Per
/// step four loads for four products of 8192 multiplications, so that loads hide behind them.
template <class Tiles>
void amx_block(const Rows& rows, const Word* b, int64_t steps, const Sums& sums, Ahead& ahead) {
  const int64_t lines = steps > 0 ? (ahead.lines + steps - 1) / steps : 0, ldc = sums.row;
  float* c = sums.at;
  const Word* a = rows.at;
  const int64_t stride = rows.row * 4;
  if (sums.add) {
    Tiles::template load<0>(c, ldc * 4);
    Tiles::template load<1>(c + 16, ldc * 4);
    Tiles::template load<2>(c + 16 * ldc, ldc * 4);
    Tiles::template load<3>(c + 16 * ldc + 16, ldc * 4);
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (int64_t q = 0; q < steps; ++q, a += rows.step, b += 2 * kTile) {
    ahead.ask(lines);
    Tiles::template load<4>(a, stride);
    Tiles::template load<6>(b, 64);
    Tiles::template load<7>(b + kTile, 64);
    Tiles::template load<5>(a + 16 * rows.row, stride);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template multiply<1, 4, 7>();
    Tiles::template multiply<2, 5, 6>();
    Tiles::template multiply<3, 5, 7>();
  }
  Tiles::template store<0>(c, ldc * 4);
  Tiles::template store<1>(c + 16, ldc * 4);
  Tiles::template store<2>(c + 16 * ldc, ldc * 4);
  Tiles::template store<3>(c + 16 * ldc + 16, ldc * 4);
}

}  // namespace olm::kernels::gemm_tiles
