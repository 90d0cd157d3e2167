// Grouped GEMM by multiply-adds of f32 (gemm/simt.cuh): a block makes 64 x 64 of a group's C.
#include <olm/kernels/cuda/gemm/simt.cuh>
#include <olm/kernels/cuda/grouped_gemm/groups.cuh>

namespace olm::kernels::cuda_grouped {
namespace {

using namespace cuda_gemm;

/// Block i: columns i % tiles_n of tile i / tiles_n.
__global__ void __launch_bounds__(kSimtThreads) grouped_simt(const __grid_constant__ Call g) {
  const int64_t tiles_n = (g.n + kSimtTile - 1) / kSimtTile;
  const Tile tile = g.tiles[blockIdx.x / tiles_n];
  if (tile.rows == 0) return;
  const int64_t n0 = blockIdx.x % tiles_n * kSimtTile, first = tile.first;
  Strided2D a = strided(advance(g.a, g.a_dtype, first * g.k), g.a_dtype, g.k, true);
  Strided2D b =
      strided(g.groups[tile.group].b, g.b_dtype, g.transpose_b ? g.k : g.n, g.transpose_b);
  float sums[4][4] = {};
  multiply_simt(a, b, 0, n0, tile.rows, g.n, g.k, sums);
  Epilogue e = epilogue_of(g, tile);
  finish_simt(e, first, 0, n0, tile.rows, g.n, sums);
}

/// Block (i, group): rows i / tiles_n and columns i % tiles_n of its C.
__global__ void __launch_bounds__(kSimtThreads)
    grouped_simt_by_depth(const __grid_constant__ Call g) {
  const Group group = g.groups[blockIdx.y];
  const GroupRows rows = group_rows(g.offsets, blockIdx.y, g.rows, g.faults);
  if (!group.c || (group.accumulate && rows.count == 0)) return;
  const int64_t tiles_n = (g.n + kSimtTile - 1) / kSimtTile;
  const int64_t m0 = blockIdx.x / tiles_n * kSimtTile, n0 = blockIdx.x % tiles_n * kSimtTile;
  const Strided2D a = strided(advance(g.a, g.a_dtype, rows.first * g.k), g.a_dtype, g.k, false);
  const Strided2D b = strided(advance(g.b, g.b_dtype, rows.first * g.n), g.b_dtype, g.n, false);
  float sums[4][4] = {};
  multiply_simt(a, b, m0, n0, g.k, g.n, rows.count, sums);
  finish_simt(epilogue_of(g, group), 0, m0, n0, g.k, g.n, sums);
}

}  // namespace

void run_simt(const GroupedGemm& g, Call call) {
  const int64_t tiles_n = ceil_div(g.n, kSimtTile);
  if (g.by_depth) {
    const Launch shape{.grid = ceil_div(g.k, kSimtTile) * tiles_n,
                       .grid_y = g.groups,
                       .block = kSimtThreads,
                       .shared = kSimtShared,
                       .stream = g.stream};
    return launch(grouped_simt_by_depth, shape, call);
  }
  const int64_t tiles_m = max_tiles(g.rows, g.groups, kSimtTile);
  const auto tiles = g.stream.scratch<Tile>(size_t(tiles_m));
  list_tiles(g, kSimtTile, tiles);
  call.tiles = tiles;
  call.epilogue.member_stride = g.n;  // a member is a tile, which begins at a row
  launch(
      grouped_simt,
      {.grid = tiles_m * tiles_n, .block = kSimtThreads, .shared = kSimtShared, .stream = g.stream},
      call);
}

}  // namespace olm::kernels::cuda_grouped
