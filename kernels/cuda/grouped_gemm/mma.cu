// Grouped GEMM by tensor cores: mma.m16n8k16, sums in f32. A block makes 128 x 128 of a group's C
// (mma.cuh), or 64 x 64 where groups or matrices are small. Operands of 16 bits whose rows begin
// at multiples of 16 bytes come by cp.async; f32 weights, and what is not so aligned, are rounded
// while they are loaded.
#include <olm/kernels/cuda/grouped_gemm/groups.cuh>
#include <olm/kernels/cuda/grouped_gemm/mma.cuh>

namespace olm::kernels::cuda_grouped {
namespace {

/// Block i: columns i % tiles_n of tile i / tiles_n.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 2) grouped_mma(const __grid_constant__ Call g) {
  const int64_t tiles_n = (g.n + S::kN - 1) / S::kN;
  const Tile tile = g.tiles[blockIdx.x / tiles_n];
  if (tile.rows == 0) return;
  const int64_t n0 = blockIdx.x % tiles_n * S::kN, first = tile.first;
  const Source a{.data = advance(g.a, g.a_dtype, first * g.k),
                 .dtype = g.a_dtype,
                 .ld = g.k,
                 .side = tile.rows,
                 .depth = g.k,
                 .vectors = g.vectors_a};
  const Source b{.data = g.groups[tile.group].b,
                 .dtype = g.b_dtype,
                 .ld = S::kBInDepth ? g.k : g.n,
                 .origin = n0,
                 .side = g.n,
                 .depth = g.k,
                 .vectors = g.vectors_b};
  Sums<S> sums = {};
  multiply<S>(a, b, sums);
  finish_mma<S>(epilogue_of(g, tile), first, 0, n0, tile.rows, g.n, sums);
}

/// Block (i, group): rows i / tiles_n and columns i % tiles_n of its C.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 2)
    grouped_mma_by_depth(const __grid_constant__ Call g) {
  const Group group = g.groups[blockIdx.y];
  const GroupRows rows = group_rows(g.offsets, blockIdx.y, g.rows, g.faults);
  if (!group.c || (group.accumulate && rows.count == 0)) return;
  const int64_t tiles_n = (g.n + S::kN - 1) / S::kN;
  const int64_t m0 = blockIdx.x / tiles_n * S::kM, n0 = blockIdx.x % tiles_n * S::kN;
  const Source a{.data = advance(g.a, g.a_dtype, rows.first * g.k),
                 .dtype = g.a_dtype,
                 .ld = g.k,
                 .origin = m0,
                 .side = g.k,
                 .depth = rows.count,
                 .vectors = g.vectors_a};
  const Source b{.data = advance(g.b, g.b_dtype, rows.first * g.n),
                 .dtype = g.b_dtype,
                 .ld = g.n,
                 .origin = n0,
                 .side = g.n,
                 .depth = rows.count,
                 .vectors = g.vectors_b};
  Sums<S> sums = {};
  multiply<S>(a, b, sums);
  finish_mma<S>(epilogue_of(g, group), 0, m0, n0, g.k, g.n, sums);
}

template <class S>
void launch_rows(const GroupedGemm& g, Call call) {
  const int64_t tiles_m = max_tiles(g.rows, g.groups, S::kM);
  const auto tiles = g.stream.scratch<Tile>(size_t(tiles_m));
  list_tiles(g, S::kM, tiles);
  call.tiles = tiles;
  call.epilogue.member_stride = g.n;  // a member is a tile, which begins at a row
  launch(grouped_mma<S>,
         {.grid = tiles_m * ceil_div(g.n, S::kN),
          .block = S::kThreads,
          .shared = S::kShared,
          .stream = g.stream},
         call);
}

template <class S>
void launch_by_depth(const GroupedGemm& g, const Call& call) {
  launch(grouped_mma_by_depth<S>,
         {.grid = ceil_div(g.k, S::kM) * ceil_div(g.n, S::kN),
          .grid_y = g.groups,
          .block = S::kThreads,
          .shared = S::kShared,
          .stream = g.stream},
         call);
}

constexpr int kLarge = 128, kSmall = 64;
/// Fewer rows than these in a group, or columns, leave much of a large tile empty.
constexpr int64_t kMinRows = 96, kMinCols = 65;

/// Where A and B can come by cp.async.
struct Ways {
  bool a = false, b = false, large = false;
};

template <class T, bool transpose_b>
void run_rows(const GroupedGemm& g, const Call& call, const Ways& async) {
  if (async.a && async.b && async.large)
    launch_rows<Shape<T, kLarge, kLarge, true, transpose_b, true, true>>(g, call);
  else if (async.a && async.large)
    launch_rows<Shape<T, kLarge, kLarge, true, transpose_b, true, false>>(g, call);
  else if (async.a && async.b)
    launch_rows<Shape<T, kSmall, kSmall, true, transpose_b, true, true>>(g, call);
  else
    launch_rows<Shape<T, kSmall, kSmall, true, transpose_b, false, false>>(g, call);
}

template <class T>
void run_depth(const GroupedGemm& g, const Call& call, const Ways& async) {
  if (!async.a || !async.b)
    launch_by_depth<Shape<T, kSmall, kSmall, false, false, false, false>>(g, call);
  else if (async.large)
    launch_by_depth<Shape<T, kLarge, kLarge, false, false, true, true>>(g, call);
  else
    launch_by_depth<Shape<T, kSmall, kSmall, false, false, true, true>>(g, call);
}

/// True where rows of `pitch` elements from p on begin at multiples of 16 bytes.
bool has_vectors(const void* p, DType t, int64_t pitch) {
  return pitch * int64_t(size_of(t)) % 16 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

template <class T>
void run_in(const GroupedGemm& g, Call call) {
  const int64_t ld_b = g.by_depth || !g.transpose_b ? g.n : g.k;
  call.vectors_a = has_vectors(g.a, g.a_dtype, g.k);
  call.vectors_b = !g.by_depth || has_vectors(g.b, g.b_dtype, g.n);
  for (int64_t i = 0; !g.by_depth && i < g.groups; ++i)
    call.vectors_b = call.vectors_b && has_vectors(g.b_list[i], g.b_dtype, ld_b);
  const int64_t extent = g.by_depth ? g.k : g.rows / g.groups;
  const Ways async{.a = call.vectors_a && g.a_dtype == dtype_of<T>,
                   .b = call.vectors_b && g.b_dtype == dtype_of<T>,
                   .large = extent >= kMinRows && g.n >= kMinCols};
  if (g.by_depth)
    run_depth<T>(g, call, async);
  else if (g.transpose_b)
    run_rows<T, true>(g, call, async);
  else
    run_rows<T, false>(g, call, async);
}

}  // namespace

void run_mma(const GroupedGemm& g, Call call, DType t) {
  if (t == bf16)
    run_in<bfloat16_t>(g, call);
  else
    run_in<float16_t>(g, call);
}

}  // namespace olm::kernels::cuda_grouped
