// Backward of bias and activation. A block takes 128 columns of a part of a group's rows: its warps
// walk the rows in turn, each lane makes dz of four neighbours and adds them up; the sums of warps,
// then of the parts of a group, which go through scratch, are added in order. How many parts a
// group has depends on the sizes that the host knows. Traffic: dy and z read once, dz written once.
#include <olm/kernels/cuda/gemm/epilogue.cuh>
#include <olm/kernels/cuda/gemm/epilogue_backward.cuh>
#include <olm/kernels/cuda/group_rows.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels {
namespace cuda_gemm {
namespace {

constexpr int kWarps = 8, kCols = 4 * kWarp;
constexpr int64_t kBlocks = 1024;     // enough to fill large cards
constexpr int64_t kMinPartRows = 32;  // of a part on average

__device__ inline GroupRows rows_of(const EpilogueBackward& k, int64_t group) {
  if (!k.offsets) return {0, k.rows};
  return group_rows(k.offsets, group, k.rows, k.faults);
}

__device__ inline void add_quad(const EpilogueBackward& k, int64_t row, int64_t col, bool vectors,
                                int count, float (&sums)[4]) {
  const int64_t at = row * k.cols + col;
  float v[4], z[4];
  load_quad(k.dy, k.dtype, row * k.dy_stride + col, vectors, count, v);
  if (k.activation != Activation::none) {
    load_quad(k.z, k.dtype, at, vectors, count, z);
    with_activation(k.activation, [&](auto activation) {
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] *= activation_gradient(activation, z[j]);
    });
  }
  if (k.dz) store_quad(k.dz, k.dtype, at, vectors, count, v);
#pragma unroll
  for (int j = 0; j < 4; ++j) sums[j] += v[j];
}

/// Block (x, y, z): columns x, group y, part z of gridDim.z. partials: [groups, parts, cols].
__global__ void __launch_bounds__(kWarps* kWarp)
    epilogue_backward(const __grid_constant__ EpilogueBackward k, bool vectors, float* partials) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t group = blockIdx.y, part = blockIdx.z, parts = gridDim.z;
  const int64_t col = int64_t(blockIdx.x) * kCols + lane * 4;
  const int count = int(k.cols - col < 0 ? 0 : k.cols - col < 4 ? k.cols - col : 4);
  const GroupRows rows = rows_of(k, group);
  const int64_t size = (rows.count + parts - 1) / parts;
  const int64_t begin = part * size, end = begin + size < rows.count ? begin + size : rows.count;
  float sums[4] = {};
  for (int64_t r = begin + warp; r < end; r += kWarps)
    if (count > 0) add_quad(k, rows.first + r, col, vectors, count, sums);
  if (!partials) return;
  auto* of_warp = shared<Vec<float, 4>>();
  of_warp[threadIdx.x] = {sums[0], sums[1], sums[2], sums[3]};
  __syncthreads();
  if (warp > 0) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] += of_warp[w * kWarp + lane].v[j];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (j < count) partials[(group * parts + part) * k.cols + col + j] = sums[j];
}

/// A thread adds up the parts of a column of group blockIdx.y.
__global__ void bias_gradient(const __grid_constant__ EpilogueBackward k, const float* partials,
                              int64_t parts) {
  const int64_t group = blockIdx.y;
  const Group to = k.groups_in_memory ? k.groups_in_memory[group] : k.only;
  auto* dbias = out<float>(to.c);
  if (!dbias) return;
  for (int64_t col = global_thread(); col < k.cols; col += global_threads()) {
    float sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += partials[(group * parts + p) * k.cols + col];
    dbias[col] = to.accumulate ? dbias[col] + sum : sum;
  }
}

}  // namespace

void run_epilogue_backward(const EpilogueBackward& call) {
  EpilogueBackward k = call;
  if (k.dy_stride == 0) k.dy_stride = k.cols;
  if (k.cols == 0 || k.groups == 0 || (!k.dz && !k.wants_dbias)) return;
  const int64_t across = ceil_div(k.cols, kCols);
  const int64_t wanted =
      std::min(ceil_div(kBlocks, across * k.groups), ceil_div(k.rows, kMinPartRows * k.groups));
  const int64_t parts = std::max<int64_t>(wanted, 1);
  const auto partials =
      k.stream.scratch<float>(k.wants_dbias ? size_t(k.groups * parts * k.cols) : 0);
  const bool vectors = quads_fit(k.dy, k.dtype, k.cols | k.dy_stride) &&
                       quads_fit(k.z, k.dtype, k.cols) && quads_fit(k.dz, k.dtype, k.cols);
  launch(epilogue_backward,
         {.grid = across,
          .grid_y = k.groups,
          .grid_z = parts,
          .block = kWarps * kWarp,
          .shared = kWarps * kWarp * sizeof(Vec<float, 4>),
          .stream = k.stream},
         k, vectors, k.wants_dbias ? partials.get() : nullptr);
  if (!k.wants_dbias) return;
  launch(bias_gradient,
         {.grid = blocks_for(k.cols, 256), .grid_y = k.groups, .block = 256, .stream = k.stream}, k,
         static_cast<const float*>(partials.get()), parts);
}

}  // namespace cuda_gemm

void run(Cuda, const GemmEpilogueBackward& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {});  // refuses f64
  cuda_gemm::run_epilogue_backward({.dtype = k.dtype,
                                    .dy = k.dy,
                                    .z = k.z,
                                    .dz = k.dz,
                                    .rows = k.rows,
                                    .cols = k.cols,
                                    .dy_stride = k.dy_stride,
                                    .activation = k.activation,
                                    .only = {.c = k.dbias, .accumulate = k.accumulate},
                                    .wants_dbias = k.dbias != nullptr,
                                    .faults = {k.name, k.stream},
                                    .stream = k.stream});
}

}  // namespace olm::kernels
