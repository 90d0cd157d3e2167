// Grouped GEMM: pointers of the groups and, where groups are of rows, the list of tiles go to
// scratch by small kernels; then a block makes a tile of some group's C. Nothing waits for the
// host. Traffic: B of a group is read once for each tile of its rows, from L2 after the first time.
#include <olm/kernels/cuda/grouped_gemm/groups.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels {
namespace cuda_grouped {
namespace {

constexpr int kBlock = 256;

__global__ void write_groups(const __grid_constant__ SomeGroups groups, int count, Group* to) {
  if (int(threadIdx.x) < count) to[threadIdx.x] = groups.entries[threadIdx.x];
}

/// One block; a thread takes a group.
__global__ void __launch_bounds__(kBlock)
    cut_groups(const int32_t* offsets, int64_t groups, int64_t rows, int64_t size, Faults faults,
               Tile* tiles, int64_t capacity) {
  int64_t next = 0;
  for (int64_t base = 0; base < groups; base += kBlock) {
    const int64_t group = base + threadIdx.x;
    GroupRows own;
    if (group < groups) own = group_rows(offsets, group, rows, faults);
    int64_t total;
    int64_t at = next + block_sum_before(ceil_div(own.count, size), total);
    for (int64_t r = 0; r < own.count; r += size, ++at) {
      const int64_t left = own.count - r;
      if (at < capacity)
        tiles[at] = {int32_t(group), int32_t(own.first + r), int32_t(left < size ? left : size)};
    }
    next += total;
  }
  for (int64_t at = next + threadIdx.x; at < capacity; at += kBlock) tiles[at] = {};
}

/// The dtype of 16 bits in which tensor cores multiply these, or f32.
DType multiplied_in(DType a, DType b) {
  if (a == b || b == f32) return a;
  return a == f32 ? b : f32;
}

void run_groups(const GroupedGemm& g) {
  const auto groups = g.stream.scratch<Group>(size_t(g.groups));
  upload_groups(g.groups, groups, g.stream, [&](int64_t i) -> Group {
    if (g.by_depth) return {.c = g.c_list[i], .accumulate = g.accumulate && g.accumulate[i]};
    return {.b = g.b_list[i], .bias = g.bias_list ? g.bias_list[i] : nullptr};
  });
  Call call{.a = g.a,
            .b = g.b,
            .a_dtype = g.a_dtype,
            .b_dtype = g.b_dtype,
            .groups = groups,
            .offsets = g.offsets,
            .group_count = g.groups,
            .rows = g.rows,
            .n = g.n,
            .k = g.k,
            .transpose_b = g.transpose_b,
            .faults = {g.name, g.stream}};
  call.epilogue = {.dtype = g.c_dtype,
                   .c = g.c,
                   .preactivation = g.preactivation,
                   .bias_dtype = g.bias_dtype,
                   .activation = g.activation,
                   .vectors = cuda_gemm::quads_fit(g.c, g.c_dtype, g.n) &&
                              cuda_gemm::quads_fit(g.preactivation, g.c_dtype, g.n),
                   .ldc = g.n};
  for (int64_t i = 0; g.by_depth && i < g.groups; ++i)
    call.epilogue.vectors =
        call.epilogue.vectors && cuda_gemm::quads_fit(g.c_list[i], g.c_dtype, g.n);
  const DType t = multiplied_in(g.a_dtype, g.b_dtype);
  if (t == f32) return run_simt(g, call);
  run_mma(g, call, t);
}

}  // namespace

void upload(const SomeGroups& groups, int count, Group* to, const Stream& stream) {
  launch(write_groups, {.grid = 1, .block = round_up(kGroupsPerLaunch, kWarp), .stream = stream},
         groups, count, to);
}

void list_tiles(const GroupedGemm& g, int64_t size, Tile* tiles) {
  launch(cut_groups, {.grid = 1, .block = kBlock, .stream = g.stream}, g.offsets, g.groups, g.rows,
         size, Faults(g.name, g.stream), tiles, max_tiles(g.rows, g.groups, size));
}

}  // namespace cuda_grouped

void run(Cuda, const GroupedGemm& g) {
  if (g.groups <= 0) return;
  check(g);
  visit_cuda_float(g.c_dtype, [&]<class T>() {});  // refuses f64
  if (g.n == 0 || (g.by_depth ? g.k : g.rows) == 0) return;
  cuda_grouped::run_groups(g);
}

void run(Cuda, const GroupedGemmEpilogueBackward& k) {
  if (k.groups <= 0) return;
  visit_cuda_float(k.dtype, [&]<class T>() {});  // refuses f64
  const auto groups = k.stream.scratch<cuda_gemm::Group>(size_t(k.dbias_list ? k.groups : 0));
  bool wanted = false;
  if (k.dbias_list)
    cuda_grouped::upload_groups(k.groups, groups, k.stream, [&](int64_t i) -> cuda_gemm::Group {
      wanted = wanted || k.dbias_list[i];
      return {.c = k.dbias_list[i], .accumulate = k.accumulate && k.accumulate[i]};
    });
  cuda_gemm::run_epilogue_backward({.dtype = k.dtype,
                                    .dy = k.dy,
                                    .z = k.z,
                                    .dz = k.dz,
                                    .rows = k.rows,
                                    .cols = k.cols,
                                    .activation = k.activation,
                                    .offsets = k.offsets,
                                    .groups_in_memory = k.dbias_list ? groups.get() : nullptr,
                                    .groups = k.groups,
                                    .wants_dbias = wanted,
                                    .faults = {k.name, k.stream},
                                    .stream = k.stream});
}

}  // namespace olm::kernels
