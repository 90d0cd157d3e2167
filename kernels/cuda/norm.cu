// RMSNorm and LayerNorm of s = x, or of s = x + delta:
//   y = (s - mean) · rstd · weight + bias      rstd = 1 / sqrt(mean_c (s - mean)² + eps)
// Bound by memory. A row belongs to a warp (up to 1024 columns) or to a block, each thread of which
// owns the same pieces of every row and holds them in registers: x, delta, dy and ds are read once,
// s, y and dx written once. What a row has beyond the registers of its threads (forward 16384
// columns, backward 8192) is read again, from L2.
//   forward   mean, then squared deviations from it (mean(s²) - mean(s)² cancels), then y
//   backward  a grid of at most kMaxParts blocks goes over the rows; each thread sums its columns'
//             dweight and dbias over the rows of its block; a second kernel adds the blocks' sums
//             in order. So the bits depend on the shape alone.
#include <olm/kernels/norm.h>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {
namespace {

/// Who shares a row: a warp or a whole block; `lane` of `lanes`.
enum class Team { warp, block };
template <Team team>
struct Lanes {
  int lane, lanes;
  int64_t row, rows_per_step;  // first row, and how far the next one is
  __device__ Lanes() {
    const int width = team == Team::warp ? kWarp : int(blockDim.x);
    const int teams = int(blockDim.x) / width;
    lane = int(threadIdx.x) % width;
    lanes = width;
    row = int64_t(blockIdx.x) * teams + int(threadIdx.x) / width;
    rows_per_step = int64_t(gridDim.x) * teams;
  }
  template <class V, class Op>
  __device__ V reduce(V v, Op op) const {
    return team == Team::warp ? warp_reduce(v, op) : block_reduce(v, op);
  }
};

constexpr int64_t kMaxColumns = int64_t(1) << 30;
/// The longest row of a warp, which holds all of it. Single elements are read for odd rows alone.
template <int N>
inline constexpr int64_t kWarpColumns = N == 1 ? 256 : 1024;
constexpr int kWarpBlock = 128;  // threads of a block of warps with a row each
constexpr int kMaxBlock = 512;

/// The block for rows of `cols`, where a thread holds `per_thread` elements.
int64_t team_block(Team team, int64_t cols, int64_t per_thread) {
  return team == Team::warp
             ? kWarpBlock
             : std::clamp<int64_t>(round_up(ceil_div(cols, per_thread), kWarp), 64, kMaxBlock);
}
int64_t rows_per_block(Team team) { return team == Team::warp ? kWarpBlock / kWarp : 1; }

/// Calls f.template operator()<team, T, N>() with the elements of one access, 16 bytes where all
/// rows begin at multiples of that, else one.
template <class F, class... Pointers>
void visit_team(DType dtype, int64_t cols, F&& f, Pointers... rows) {
  require(cols <= kMaxColumns, "cuda: rows of ", cols, " columns are too long for a norm");
  visit_cuda_float(dtype, [&]<class T>() {
    const auto of_width = [&]<int N>() {
      if (cols <= kWarpColumns<N>)
        f.template operator()<Team::warp, T, N>();
      else
        f.template operator()<Team::block, T, N>();
    };
    if (is_vectorizable<T>(cols, rows...))
      of_width.template operator()<kVec<T>>();
    else
      of_width.template operator()<1>();
  });
}

// Forward -----------------------------------------------------------------------------------------

/// Elements of a row in the registers of one thread: all that a warp has.
template <int N>
inline constexpr int kForwardElements = kWarpColumns<N> / kWarp;

template <class T>
struct ForwardRows {
  T *y, *s;
  float *mean, *rstd;
  const T *x, *delta;
  const float *weight, *bias;
  int64_t rows;
  int cols;
  float eps;
  bool centered;
};

/// Elements of s from column `col` on; x + delta is also stored.
template <int N, class T>
__device__ inline void make_sum(float (&v)[N], const ForwardRows<T>& k, int64_t r, int col) {
  const int64_t at = r * k.cols + col;
  load_floats(v, k.x + at);
  if (!k.delta) return;
  float delta[N];
  load_floats(delta, k.delta + at);
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] = to_float(from_float<T>(v[j] + delta[j]));
  store_floats(k.s + at, v);
}

template <int N, class T>
__device__ inline void store_norm(const float (&v)[N], const ForwardRows<T>& k, int64_t r, int col,
                                  float mean, float rstd) {
  float weight[N], bias[N], y[N];
  if (k.weight) load_floats(weight, k.weight + col);
  if (k.bias) load_floats(bias, k.bias + col);
#pragma unroll
  for (int j = 0; j < N; ++j)
    y[j] = fmaf((v[j] - mean) * rstd, k.weight ? weight[j] : 1.0f, k.bias ? bias[j] : 0.0f);
  store_floats(k.y + r * k.cols + col, y);
}

template <int N>
__device__ inline float sum_of(const float (&v)[N]) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) sum += v[j];
  return sum;
}
template <int N>
__device__ inline float squares_of(const float (&v)[N], float mean) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float deviation = v[j] - mean;
    sum = fmaf(deviation, deviation, sum);
  }
  return sum;
}

template <Team team, class T, int N>
__global__ void __launch_bounds__(team == Team::warp ? kWarpBlock : kMaxBlock, 1)
    norm_forward(ForwardRows<T> k) {
  constexpr int kPieces = kForwardElements<N> / N;
  const Lanes<team> lanes;
  const int step = lanes.lanes * N, first = lanes.lane * N, held = step * kPieces;
  const T* stored = k.delta ? k.s : k.x;
  for (int64_t r = lanes.row; r < k.rows; r += lanes.rows_per_step) {
    float v[kPieces][N] = {}, more[N];
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols) make_sum(v[p], k, r, first + p * step);
    if (k.centered) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) sum += sum_of(v[p]);
    }
    for (int col = first + held; team == Team::block && col < k.cols; col += step) {
      make_sum(more, k, r, col);
      sum += sum_of(more);
    }
    const float mean = k.centered ? lanes.reduce(sum, Sum{}) / float(k.cols) : 0.0f;
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols) squares += squares_of(v[p], mean);
    for (int col = first + held; team == Team::block && col < k.cols; col += step) {
      load_floats(more, stored + r * k.cols + col);
      squares += squares_of(more, mean);
    }
    const float rstd = 1.0f / sqrtf(lanes.reduce(squares, Sum{}) / float(k.cols) + k.eps);
    if (lanes.lane == 0) {
      if (k.centered) k.mean[r] = mean;
      k.rstd[r] = rstd;
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols) store_norm(v[p], k, r, first + p * step, mean, rstd);
    for (int col = first + held; team == Team::block && col < k.cols; col += step) {
      load_floats(more, stored + r * k.cols + col);
      store_norm(more, k, r, col, mean, rstd);
    }
  }
}

// Backward ----------------------------------------------------------------------------------------

/// Blocks of the grid over rows: four for each multiprocessor of a large card.
constexpr int64_t kMaxParts = 528;

template <Team team, int N>
inline constexpr int kBackwardElements = N == 1               ? 8
                                         : team == Team::warp ? 32
                                                              : 16;

template <class T>
struct BackwardRows {
  T* dx;
  float *dweight, *dbias;  // [blocks, cols]
  const T *dy, *ds, *s;
  const float *weight, *mean, *rstd;
  int64_t rows;
  int cols;
  bool centered;
};

/// Part of a row: s and dy, and of them n = (s - mean) · rstd and g = dy · weight.
template <class T, int N>
struct RowPiece {
  Packed<T, N> s, dy;
  __device__ void load(const BackwardRows<T>& k, int64_t r, int col) {
    const int64_t at = r * k.cols + col;
    s.load(k.s + at);
    dy.load(k.dy + at);
  }
  __device__ float n(int j, float mean, float rstd) const { return (s[j] - mean) * rstd; }
};

template <int N, class T>
__device__ inline void load_weight(float (&weight)[N], const BackwardRows<T>& k, int col) {
#pragma unroll
  for (int j = 0; j < N; ++j) weight[j] = 1.0f;
  if (k.weight) load_floats(weight, k.weight + col);
}

/// Adds a piece to the row's sums of g (a) and g · n (b), and to the columns' sums.
template <class T, int N>
__device__ inline void add_piece(const RowPiece<T, N>& x, const BackwardRows<T>& k, int col,
                                 float mean, float rstd, Pair& sums, float (&dweight)[N],
                                 float (&dbias)[N]) {
  float weight[N];
  load_weight(weight, k, col);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float dy = x.dy[j], n = x.n(j, mean, rstd), g = dy * weight[j];
    sums.a += g;
    sums.b = fmaf(g, n, sums.b);
    dweight[j] = fmaf(dy, n, dweight[j]);
    dbias[j] += dy;
  }
}

template <class T, int N>
__device__ inline void store_gradient(const RowPiece<T, N>& x, const BackwardRows<T>& k, int64_t r,
                                      int col, float mean, float rstd, Pair means) {
  const int64_t at = r * k.cols + col;
  float dx[N] = {}, weight[N];
  load_weight(weight, k, col);
  if (k.ds) load_floats(dx, k.ds + at);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float v = fmaf(-x.n(j, mean, rstd), means.b, x.dy[j] * weight[j] - means.a);
    dx[j] = fmaf(v, rstd, dx[j]);
  }
  store_floats(k.dx + at, dx);
}

/// Adds sums of columns to those of this block, or begins them.
template <class T, int N>
__device__ inline void add_to_part(const BackwardRows<T>& k, int col, bool begins,
                                   float (&dweight)[N], float (&dbias)[N]) {
  const int64_t at = int64_t(blockIdx.x) * k.cols + col;
  const auto add = [&](float* part, float(&sums)[N]) {
    float before[N] = {};
    if (!begins) load_floats(before, part + at);
#pragma unroll
    for (int j = 0; j < N; ++j) sums[j] += before[j];
    store_floats(part + at, sums);
  };
  if (k.dweight) add(k.dweight, dweight);
  if (k.dbias) add(k.dbias, dbias);
}

template <Team team, class T, int N>
__global__ void __launch_bounds__(team == Team::warp ? kWarpBlock : kMaxBlock, 1)
    norm_backward(BackwardRows<T> k) {
  constexpr int kPieces = kBackwardElements<team, N> / N;
  const Lanes<team> lanes;
  const int step = lanes.lanes * N, first = lanes.lane * N, held = step * kPieces;
  const float inverse = 1.0f / float(k.cols);
  float dweight[kPieces][N] = {}, dbias[kPieces][N] = {};
  for (int64_t r = lanes.row; r < k.rows; r += lanes.rows_per_step) {
    const float mean = k.centered ? k.mean[r] : 0.0f;
    // One number is its own mean, so no change of it changes y: a factor of 0 takes away what the
    // rounding of g - mean_c g would leave.
    const float rstd = k.centered && k.cols == 1 ? 0.0f : k.rstd[r];
    RowPiece<T, N> x[kPieces] = {}, more;
    Pair sums{0, 0};
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols) x[p].load(k, r, first + p * step);
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols)
        add_piece(x[p], k, first + p * step, mean, rstd, sums, dweight[p], dbias[p]);
    for (int col = first + held; team == Team::block && col < k.cols; col += step) {
      float dweight_here[N] = {}, dbias_here[N] = {};
      more.load(k, r, col);
      add_piece(more, k, col, mean, rstd, sums, dweight_here, dbias_here);
      add_to_part(k, col, r == lanes.row, dweight_here, dbias_here);
    }
    if (!k.dx) continue;
    const Pair all = lanes.reduce(sums, Sum{});
    const Pair means{k.centered ? all.a * inverse : 0.0f, all.b * inverse};
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (first + p * step < k.cols)
        store_gradient(x[p], k, r, first + p * step, mean, rstd, means);
    for (int col = first + held; team == Team::block && col < k.cols; col += step) {
      more.load(k, r, col);
      store_gradient(more, k, r, col, mean, rstd, means);
    }
  }
  for (int turn = 0; turn < (team == Team::warp ? kWarpBlock / kWarp : 1); ++turn) {
    if (team == Team::block || turn == int(threadIdx.x) / kWarp) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p)
        if (first + p * step < k.cols)
          add_to_part(k, first + p * step, turn == 0, dweight[p], dbias[p]);
    }
    __syncthreads();
  }
}

/// to[c] = Σ_p parts[p, c], added to what is there where `accumulate`. A warp's lanes read
/// neighbouring columns; the warps of a block share the parts, and their sums are added in order.
__global__ void sum_parts(float* to, const float* parts, int64_t count, int64_t cols,
                          bool accumulate) {
  float* of_warp = shared<float>();
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int warps = int(blockDim.x) / kWarp;
  const int64_t c = int64_t(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (c < cols)
    for (int64_t p = warp; p < count; p += warps) sum += parts[p * cols + c];
  of_warp[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || c >= cols) return;
  for (int w = 1; w < warps; ++w) sum += of_warp[w * kWarp + lane];
  to[c] = accumulate ? to[c] + sum : sum;
}

void sum_parts_to(void* to, const float* parts, int64_t count, const NormBackward& k,
                  bool accumulate) {
  constexpr int64_t kBlock = 256;
  if (!to) return;
  launch(sum_parts,
         {.grid = ceil_div(k.cols, kWarp),
          .block = kBlock,
          .shared = kBlock * sizeof(float),
          .stream = k.stream},
         out<float>(to), parts, count, k.cols, accumulate);
}

}  // namespace

void run(Cuda, const NormForward& k) {
  const auto forward = [&]<Team team, class T, int N>() {
    const ForwardRows<T> rows{.y = out<T>(k.y),
                              .s = out<T>(k.s),
                              .mean = out<float>(k.mean),
                              .rstd = out<float>(k.rstd),
                              .x = in<T>(k.x),
                              .delta = in<T>(k.delta),
                              .weight = in<float>(k.weight),
                              .bias = in<float>(k.bias),
                              .rows = k.rows,
                              .cols = int(k.cols),
                              .eps = float(k.eps),
                              .centered = k.kind == NormKind::layer};
    launch(norm_forward<team, T, N>,
           {.grid = blocks_for(k.rows, rows_per_block(team), 1 << 16),
            .block = team_block(team, k.cols, kForwardElements<N>),
            .stream = k.stream},
           rows);
  };
  visit_team(k.dtype, k.cols, forward, k.y, k.s, k.x, k.delta, k.weight, k.bias);
}

void run(Cuda, const NormBackward& k) {
  const auto backward = [&]<Team team, class T, int N>() {
    const int64_t blocks = blocks_for(k.rows, rows_per_block(team), kMaxParts);
    const auto dweight = k.stream.scratch<float>(size_t(k.dweight ? blocks * k.cols : 0));
    const auto dbias = k.stream.scratch<float>(size_t(k.dbias ? blocks * k.cols : 0));
    const BackwardRows<T> rows{.dx = out<T>(k.dx),
                               .dweight = k.dweight ? dweight.get() : nullptr,
                               .dbias = k.dbias ? dbias.get() : nullptr,
                               .dy = in<T>(k.dy),
                               .ds = in<T>(k.ds),
                               .s = in<T>(k.s),
                               .weight = in<float>(k.weight),
                               .mean = in<float>(k.mean),
                               .rstd = in<float>(k.rstd),
                               .rows = k.rows,
                               .cols = int(k.cols),
                               .centered = k.kind == NormKind::layer};
    launch(norm_backward<team, T, N>,
           {.grid = blocks,
            .block = team_block(team, k.cols, kBackwardElements<Team::block, N>),
            .stream = k.stream},
           rows);
    sum_parts_to(k.dweight, dweight, blocks, k, k.accumulate_weight);
    sum_parts_to(k.dbias, dbias, blocks, k, k.accumulate_bias);
  };
  visit_team(k.dtype, k.cols, backward, k.dx, k.dy, k.ds, k.s, k.weight);
}

}  // namespace olm::kernels
