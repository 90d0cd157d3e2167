// Attention, forward, for every size and option (FlashAttention-2: Dao 2023, arXiv:2307.08691), by
// FFMA in f32. A block owns 64 query rows of a head and walks the tiles of 64 keys that one of them
// attends:
//   S = Q Kᵀ    P = 2^((S - m) · log2_unit)    l += rowsum(P)    acc += P V
// and ends with O = acc / l; m is the row's maximum so far, and l and acc are rescaled when it
// moves. acc lies in registers, 128 columns of it: blocks of wider values make S again for each
// 128. Few queries and many keys (decoding): a block owns 8 rows of all query heads of one key
// head, for 256 keys, and a second kernel joins what the blocks found, in the order of the keys.
// Traffic: q and y once, K and V once per tile of queries, from L2.
#include <olm/kernels/cuda/flash_attention/plan.cuh>
#include <olm/kernels/cuda/flash_attention/tile.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {
namespace {

/// Unfinished rows of a split: acc [splits, rows, value_dim], m and l [splits, rows].
struct Partial {
  float *acc = nullptr, *max = nullptr, *sum = nullptr;
  int64_t rows = 0;
};

struct Call {
  Problem p = {};
  HeadRows q = {}, k = {}, v = {};
  HeadRowsOut y = {};
  void* y_low = nullptr;
  float *row_max = nullptr, *row_log_sum = nullptr;
  int64_t tiles = 0;       // of rows, per head or, where rows are packed, key head
  int64_t split_keys = 0;  // 0: keys are not split
  bool packed = false;     // rows are those of all query heads of a key head, head after head
  Partial partial = {};
};

/// What a block owns: rows [first, end) among those of its heads, from head `h` on.
struct Owner {
  int64_t b = 0, h = 0, kv = 0, first = 0, end = 0;
  bool packed = false;
  int64_t queries = 0;
  __device__ int64_t head(int64_t row) const { return packed ? h + row / queries : h; }
  __device__ int64_t query(int64_t row) const { return packed ? row % queries : row; }
  /// Queries between which the rows lie.
  __device__ Span query_span() const { return packed ? Span{0, queries} : Span{first, end}; }
};

template <int kR>
__device__ inline Owner owner_of(const Call& f) {
  const Attention& a = f.p.a;
  // The last tiles come first: under a causal mask they have the most to do.
  const int64_t tile = f.tiles - 1 - int64_t(blockIdx.x) % f.tiles;
  const int64_t head = int64_t(blockIdx.x) / f.tiles, heads = f.packed ? a.kv_heads : a.heads;
  const int64_t group = f.packed ? f.p.group : 1, rows = group * a.queries;
  Owner o{.b = head / heads, .h = head % heads * group, .first = tile * 8 * kR};
  o.kv = o.h / f.p.group;
  o.end = min(rows, o.first + 8 * kR);
  o.packed = f.packed;
  o.queries = a.queries;
  return o;
}

/// The online softmax of one query row, kept by the 16 / kR lanes that share it. A lane looks after
/// kR groups of four neighbouring keys of a tile.
template <int kR>
struct RowOfTile {
  static constexpr int kLanes = 16 / kR, kRowsOfWarp = 2 * kR;
  int local;  // row of the tile
  int lane;   // among those of the row
  bool exists;
  QueryRow row;
  float m = -kInfinity, l = 0;

  __device__ RowOfTile(const Problem& p, const Owner& o) {
    const int in_warp = int(threadIdx.x) % 32;
    local = int(threadIdx.x) / 32 * kRowsOfWarp + in_warp % kRowsOfWarp;
    lane = in_warp / kRowsOfWarp;
    const int64_t at = o.first + local;
    exists = at < o.end;
    row = exists ? query_row(p, o.b, o.head(at), o.query(at)) : QueryRow{};
  }
  template <class Op>
  __device__ float reduce(float v, Op op) const {
#pragma unroll
    for (int d = kRowsOfWarp; d < 32; d *= 2) v = op(v, __shfl_xor_sync(kAllLanes, v, d));
    return v;
  }

  /// Turns products of keys [j0, j0 + 64) in W into weights. Returns what acc is multiplied by.
  __device__ float step(const Problem& p, int64_t j0, float* w) {
    constexpr int stride = Layout<kR>::stride;
    w += local;
    float largest = -kInfinity;
    for (int g = 0; g < kR; ++g) {
      const int key = 4 * (g * kLanes + lane);
      for (int e = 0; e < 4; ++e) {
        float cap;
        float& at = w[(key + e) * stride];
        at = exists ? score(p, row, j0 + key + e, at, cap) : -kInfinity;
        largest = fmaxf(largest, at);
      }
    }
    const float now = fmaxf(m, reduce(largest, [](float a, float b) { return fmaxf(a, b); }));
    const float origin = now == -kInfinity ? 0.0f : now;
    const float factor = exp2f((m - origin) * p.log2_unit);
    m = now;
    l *= factor;
    for (int g = 0; g < kR; ++g) {
      const int group = g * kLanes + lane;
      float kept[4] = {1, 1, 1, 1};
      // l is that of all keys: dropout takes away from P V alone.
      if (p.a.dropout > 0) dropout_factors(p, row, j0 / 4 + group, kept);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& at = w[(4 * group + e) * stride];
        const float weight = exp2f((at - origin) * p.log2_unit);
        l += weight;
        at = weight * kept[e];
      }
    }
    return factor;
  }
};

/// Writes 1 / l, or what else finishes a row, to `factors`, and what backward is told.
template <int kR>
__device__ inline void finish_rows(const Call& f, const Owner& o, RowOfTile<kR>& mine,
                                   float* factors) {
  const float l = mine.reduce(mine.l, Sum{});
  if (mine.lane != 0 || !mine.exists) return;
  const Attention& a = f.p.a;
  const int64_t at = o.first + mine.local, h = o.head(at);
  const int64_t row = (o.b * a.heads + h) * a.queries + o.query(at);
  if (f.split_keys > 0) {
    factors[mine.local] = 1;
    if (blockIdx.y > 0) return;
    f.partial.max[blockIdx.z * f.partial.rows + row] = mine.m;
    f.partial.sum[blockIdx.z * f.partial.rows + row] = l;
    return;
  }
  const RowEnd end = end_of_row(f.p, h, mine.m, l);
  factors[mine.local] = end.factor;
  if (blockIdx.y > 0) return;
  f.row_max[row] = end.max;
  f.row_log_sum[row] = end.log_sum;
}

/// y and, where it is wanted, what rounding took from it.
template <class T>
__device__ inline void write_value(T* y, T* low, int64_t at, float exact) {
  y[at] = from_float<T>(exact);
  if (low) low[at] = from_float<T>(exact - to_float(y[at]));
}

template <class T, int kR>
__device__ inline void write_rows(const Call& f, const Owner& o, const float* factors, int cols,
                                  const float (&acc)[kR][8]) {
  const Attention& a = f.p.a;
  const int64_t first_column = int64_t(blockIdx.y) * kSlice;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const int local = tile_y() * kR + r;
    const int64_t row = o.first + local;
    if (row >= o.end) continue;
    const int64_t h = o.head(row), i = o.query(row);
    const int64_t at = o.b * f.y.batch + h * f.y.head + i * f.y.row + first_column;
    const int64_t linear = (o.b * a.heads + h) * a.queries + i;
    float* partial =
        f.partial.acc + (blockIdx.z * f.partial.rows + linear) * a.value_dim + first_column;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int c = column_of(e);
      if (c >= cols) continue;
      if (f.split_keys > 0)
        partial[c] = acc[r][e];
      else
        write_value(out<T>(f.y.data), out<T>(f.y_low), at + c, acc[r][e] * factors[local]);
    }
  }
}

template <class T, int kR>
__global__ void __launch_bounds__(kThreads, 2) forward_tile(const __grid_constant__ Call f) {
  const Attention& a = f.p.a;
  float* factors = shared<float>();
  float* w = factors + Layout<kR>::rows;
  float* area = w + Layout<kR>::w;
  const Owner o = owner_of<kR>(f);
  const int64_t first_column = int64_t(blockIdx.y) * kSlice;
  const int cols = int(min(int64_t(kSlice), a.value_dim - first_column));
  const int64_t begin = int64_t(blockIdx.z) * f.split_keys;
  const int64_t end = f.split_keys > 0 ? min(a.keys, begin + f.split_keys) : a.keys;
  RowOfTile<kR> mine(f.p, o);
  float acc[kR][8] = {};
  const auto query = [&](int r) -> const T* {
    const int64_t row = o.first + r;
    return row < o.end ? row_at<T>(f.q, o.b, o.head(row), o.query(row)) : nullptr;
  };
  for (int64_t j0 = begin; j0 < end; j0 += kOthers) {
    const int n = int(min(int64_t(kOthers), end - j0));
    if (meeting_of(f.p, o.b, o.query_span(), {j0, j0 + n}) == Meeting::none) continue;
    const T *keys = row_at<T>(f.k, o.b, o.kv, j0), *values = row_at<T>(f.v, o.b, o.kv, j0);
    const auto key = [&](int r) { return r < n ? keys + r * f.k.row : nullptr; };
    products<T, kR>(area, a.dim, query, key, w);
    __syncthreads();
    const float factor = mine.step(f.p, j0, w);
    if (mine.lane == 0) factors[mine.local] = factor;
    const T* slice = values + first_column;
    const bool bad = load_values<T>(area, n, cols, [&](int r) { return slice + r * f.v.row; });
    const bool guarded = __syncthreads_or(bad) != 0;
#pragma unroll
    for (int r = 0; r < kR; ++r)
#pragma unroll
      for (int e = 0; e < 8; ++e) acc[r][e] *= factors[tile_y() * kR + r];
    accumulate<kR>(w, area, n, cols, guarded, acc);
  }
  __syncthreads();
  finish_rows<kR>(f, o, mine, factors);
  __syncthreads();
  write_rows<T, kR>(f, o, factors, cols, acc);
}

/// Joins the splits of one row to a block: a thread to a column.
template <class T>
__global__ void join_splits(const __grid_constant__ Call f, int64_t splits) {
  const Attention& a = f.p.a;
  const int64_t row = blockIdx.x, i = row % a.queries, h = row / a.queries % a.heads;
  const int64_t b = row / a.queries / a.heads;
  float m = -kInfinity, l = 0;
  for (int64_t s = 0; s < splits; ++s) m = fmaxf(m, f.partial.max[s * f.partial.rows + row]);
  const float origin = m == -kInfinity ? 0.0f : m;
  const auto factor = [&](int64_t s) {
    return exp2f((f.partial.max[s * f.partial.rows + row] - origin) * f.p.log2_unit);
  };
  for (int64_t s = 0; s < splits; ++s) l += factor(s) * f.partial.sum[s * f.partial.rows + row];
  const RowEnd end = end_of_row(f.p, h, m, l);
  const int64_t at = b * f.y.batch + h * f.y.head + i * f.y.row;
  for (int64_t c = threadIdx.x; c < a.value_dim; c += blockDim.x) {
    float sum = 0;
    for (int64_t s = 0; s < splits; ++s) {
      const float share = factor(s);
      if (share != 0) sum += share * f.partial.acc[(s * f.partial.rows + row) * a.value_dim + c];
    }
    write_value(out<T>(f.y.data), out<T>(f.y_low), at + c, sum * end.factor);
  }
  if (threadIdx.x > 0) return;
  f.row_max[row] = end.max;
  f.row_log_sum[row] = end.log_sum;
}

Call call_of(const FlashAttentionForward& f, const Problem& p) {
  return {.p = p,
          .q = f.q,
          .k = f.k,
          .v = f.v,
          .y = f.y,
          .y_low = f.y_low,
          .row_max = out<float>(f.row_max),
          .row_log_sum = out<float>(f.row_log_sum)};
}

/// Slices of the values; one where there are none, for what backward is told.
int64_t slices_of(const Attention& a) {
  return std::max<int64_t>(1, ceil_div(a.value_dim, int64_t(kSlice)));
}

template <int kR>
Launch launch_of(const Call& call, int64_t heads, int64_t splits, const Stream& stream) {
  const Attention& a = call.p.a;
  return {.grid = call.tiles * a.batch * heads,
          .grid_y = slices_of(a),
          .grid_z = splits,
          .block = kThreads,
          .shared = Layout<kR>::bytes(a.value_dim > kSlice / 2, 1),
          .stream = stream};
}

}  // namespace

void general_forward(const FlashAttentionForward& f, const Problem& p) {
  const Attention& a = p.a;
  Call call = call_of(f, p);
  call.tiles = ceil_div(a.queries, int64_t(kOwned));
  visit_cuda_float(a.dtype, [&]<class T>() {
    launch(forward_tile<T, 8>, launch_of<8>(call, a.heads, 1, f.stream), call);
  });
}

void decode_forward(const FlashAttentionForward& f, const Problem& p) {
  const Attention& a = p.a;
  const int64_t splits = ceil_div(a.keys, kSplitKeys), rows = a.batch * a.heads * a.queries;
  const Scratch<float> acc =
      f.stream.scratch<float>(size_t(splits * rows * std::max<int64_t>(a.value_dim, 1)));
  const Scratch<float> max = f.stream.scratch<float>(size_t(splits * rows));
  const Scratch<float> sum = f.stream.scratch<float>(size_t(splits * rows));
  Call call = call_of(f, p);
  call.tiles = ceil_div(p.group * a.queries, kDecodeRows);
  call.split_keys = kSplitKeys;
  call.packed = true;
  call.partial = {.acc = acc, .max = max, .sum = sum, .rows = rows};
  visit_cuda_float(a.dtype, [&]<class T>() {
    launch(forward_tile<T, 1>, launch_of<1>(call, a.kv_heads, splits, f.stream), call);
    launch(join_splits<T>, {.grid = rows, .block = row_block(a.value_dim, 1), .stream = f.stream},
           call, splits);
  });
}

}  // namespace olm::kernels::cuda_attention
