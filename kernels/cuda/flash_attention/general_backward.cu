// Attention, backward, for every size and option (FlashAttention-2: Dao 2023, arXiv:2307.08691), by
// FFMA in f32. First, per query row, delta = Σ O · dO and the row's maximum and sum as kernels use
// them: 8 lanes to a row. Then a block owns 64 rows of dq, dk or dv, up to 128 columns of them, and
// walks the tiles of the others that it meets in order, those of dk and dv over all query heads of
// their group, making S and where it needs it dP again:
//   P = 2^((S - m) · log2_unit - log2 l)    dP = dO Vᵀ    dS = P · (dP - delta)
//   dq += dS K    dk += dSᵀ Q    dv += Pᵀ dO
// Nothing is added up between blocks, so every sum has one order. Traffic: as the forward's, three
// times.
#include <olm/kernels/cuda/flash_attention/gradient.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {
namespace {

constexpr int kLanesOfRow = 8;

/// What rounding took from O is added back: dP - delta is a difference of numbers as large as the
/// values, and rounding O alone would leave 2^-9 of those.
template <class T>
__global__ void find_row_stats(const __grid_constant__ FlashAttentionBackward f, float* max,
                               float* log2_sum, float* delta) {
  const Attention& a = f.attention;
  const int64_t rows = a.batch * a.heads * a.queries, row = global_thread() / kLanesOfRow;
  const int lane = int(threadIdx.x) % kLanesOfRow;
  float sum = 0;
  if (row < rows) {
    const int64_t i = row % a.queries, h = row / a.queries % a.heads;
    const int64_t b = row / a.queries / a.heads;
    const T *y = row_at<T>(f.y, b, h, i), *dy = row_at<T>(f.dy, b, h, i);
    const T* low = row_at<T>({f.y_low, f.y.batch, f.y.row, f.y.head}, b, h, i);
    for (int64_t c = lane; c < a.value_dim; c += kLanesOfRow) {
      const float exact = to_float(y[c]) + (f.y_low ? to_float(low[c]) : 0.0f);
      sum = fmaf(exact, to_float(dy[c]), sum);
    }
  }
#pragma unroll
  for (int d = 1; d < kLanesOfRow; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  if (row >= rows || lane > 0) return;
  constexpr float kLog2E = 1.44269504f;
  const float log_sum = in<float>(f.row_log_sum)[row];
  const bool attends = log_sum != -kInfinity;
  max[row] = attends ? in<float>(f.row_max)[row] : 0.0f;
  log2_sum[row] = attends ? log_sum * kLog2E : kInfinity;
  delta[row] = sum;
}

enum class Gradient : int { dq, dk, dv };

struct GradientCall : BackwardCall {
  HeadRowsOut to = {};
  int64_t columns = 0;
  float factor = 1;
};

template <Gradient which>
constexpr Owned owned_for = which == Gradient::dq ? Owned::queries : Owned::keys;

/// Adds what the tile at `at` gives to the block's rows.
template <class T, Gradient which>
__device__ inline void add_tile(const GradientCall& f, const Place& at, int cols, float* memory,
                                float (&acc)[8][8]) {
  constexpr Owned owned = owned_for<which>;
  constexpr bool gradients = which != Gradient::dv;
  const Attention& a = f.p.a;
  float *w = memory, *w2 = w + Layout<8>::w, *area = gradients ? w2 + Layout<8>::w : w2;
  tile_products<T, owned, gradients>(f, at, area, w, w2);
  __syncthreads();
  apply_rules<owned, gradients ? Becomes::gradients : Becomes::weights>(f, at, w, w2);
  const HeadRows& values = which == Gradient::dq ? f.k : which == Gradient::dk ? f.q : f.dy;
  const bool of_keys = which == Gradient::dq;
  const T* first =
      row_at<T>(values, at.b, of_keys ? at.h / f.p.group : at.h, of_keys ? at.j0 : at.i0) +
      int64_t(blockIdx.y) * kSlice;
  const int n = of_keys ? rows_from(at.j0, a.keys) : rows_from(at.i0, a.queries);
  const bool bad = load_values<T>(area, n, cols, [&](int r) { return first + r * values.row; });
  const bool guarded = __syncthreads_or(bad) != 0;
  accumulate<8>(w, area, n, cols, guarded, acc);
}

template <class T, Gradient which>
__global__ void __launch_bounds__(kThreads) gradient_tile(const __grid_constant__ GradientCall f) {
  const Attention& a = f.p.a;
  float* memory = shared<float>();
  constexpr bool of_queries = which == Gradient::dq;
  const int64_t heads = of_queries ? a.heads : a.kv_heads;
  const int64_t tile = int64_t(blockIdx.x) % f.tiles, head = int64_t(blockIdx.x) / f.tiles;
  const int64_t b = head / heads, first = tile * kOthers;
  const int64_t group = of_queries ? 1 : f.p.group, first_head = head % heads * group;
  const int64_t rows = of_queries ? a.queries : a.keys, others = of_queries ? a.keys : a.queries;
  const int64_t first_column = int64_t(blockIdx.y) * kSlice;
  const int cols = int(min(int64_t(kSlice), f.columns - first_column));
  float acc[8][8] = {};
  for (int64_t h = first_head; h < first_head + group; ++h)
    for (int64_t x = 0; x < others; x += kOthers) {
      const Place at{b, h, of_queries ? first : x, of_queries ? x : first};
      const Span queries{at.i0, min(a.queries, at.i0 + kOthers)};
      const Span keys{at.j0, min(a.keys, at.j0 + kOthers)};
      if (meeting_of(f.p, b, queries, keys) != Meeting::none)
        add_tile<T, which>(f, at, cols, memory, acc);
    }
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const int64_t row = first + tile_y() * 8 + r;
    if (row >= rows) continue;
    T* to = row_at<T>(f.to, b, head % heads, row) + first_column;
#pragma unroll
    for (int e = 0; e < 8; ++e)
      if (column_of(e) < cols) to[column_of(e)] = from_float<T>(acc[r][e] * f.factor);
  }
}

template <Gradient which>
void run_gradient(const FlashAttentionBackward& f, const BackwardCall& call,
                  const HeadRowsOut& to) {
  const Attention& a = f.attention;
  if (to.data == nullptr) return;
  GradientCall own{call};
  own.to = to;
  own.columns = which == Gradient::dv ? a.value_dim : a.dim;
  own.factor = which == Gradient::dv ? 1.0f : float(a.scale);
  const bool of_queries = which == Gradient::dq;
  own.tiles = ceil_div(of_queries ? a.queries : a.keys, int64_t(kOthers));
  const Launch shape{
      .grid = own.tiles * a.batch * (of_queries ? a.heads : a.kv_heads),
      .grid_y = ceil_div(own.columns, int64_t(kSlice)),
      .block = kThreads,
      .shared = Layout<8>::bytes(own.columns > kSlice / 2, which == Gradient::dv ? 1 : 2),
      .stream = f.stream};
  visit_cuda_float(a.dtype, [&]<class T>() { launch(gradient_tile<T, which>, shape, own); });
}

}  // namespace

void row_stats(const FlashAttentionBackward& f, float* max, float* log2_sum, float* delta) {
  const Attention& a = f.attention;
  constexpr int64_t kBlock = 128;
  const int64_t rows = a.batch * a.heads * a.queries;
  visit_cuda_float(a.dtype, [&]<class T>() {
    launch(find_row_stats<T>,
           {.grid = ceil_div(rows, kBlock / kLanesOfRow), .block = kBlock, .stream = f.stream}, f,
           max, log2_sum, delta);
  });
}

void general_backward(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats) {
  const BackwardCall call{.p = p, .q = f.q, .k = f.k, .v = f.v, .dy = f.dy, .stats = stats};
  run_gradient<Gradient::dq>(f, call, f.dq);
  run_gradient<Gradient::dk>(f, call, f.dk);
  run_gradient<Gradient::dv>(f, call, f.dv);
}

}  // namespace olm::kernels::cuda_attention
