// Attention, forward, on tensor cores (FlashAttention-2: Dao 2023, arXiv:2307.08691), for bf16 and
// f16 of head sizes 64, 96 and 128 without a mask tensor. A block owns 128 query rows of a head,
// each warp 16 or 32 of them, and walks the tiles of 64 keys that one of them attends:
//   S = Q Kᵀ    P = 2^((S - m) · log2_unit)    l += rowsum(P)    acc += P V
// and ends with O = acc / l. P stays in registers, as the operand that it is as a result, and l
// sums it as rounded, so that an offset of all values costs O no digits. V of a tile is copied
// while S is made, K of the next tile while the rest is (cp.async). Tiles that are attended whole
// see no rule; in others, pairs are masked one by one, and values that are not finite are kept
// from the pairs that may not see them. Traffic: q and y once, K and V once per 128 queries, from
// L2.
#include <olm/kernels/cuda/flash_attention/mma.cuh>
#include <olm/kernels/cuda/flash_attention/plan.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {
namespace {

struct Call {
  Problem p = {};
  HeadRows q = {}, k = {}, v = {};
  HeadRowsOut y = {};
  void* y_low = nullptr;
  float *row_max = nullptr, *row_log_sum = nullptr;
  int64_t tiles = 0;
};

template <class T_, int kDim_, int kM_, int kWarps_, int kN_>
struct Shape {
  using T = T_;
  static constexpr int kDim = kDim_, kM = kM_, kWarps = kWarps_, kN = kN_;
  static constexpr int kRows = 16 * kM * kWarps, kKeys = 8 * kN;
  static_assert(kN % 4 == 0);
  static constexpr size_t kBytes =
      sizeof(T) * kDim * (kRows + 2 * kKeys) + sizeof(unsigned) * (kKeys / 32);
};

/// What a warp keeps of its rows: thread by thread, rows 16 m + 8 half + lane / 4.
template <class S>
struct WarpRows {
  float acc[S::kM][S::kDim / 8][4] = {};
  float m[S::kM][2], l[S::kM][2] = {};

  __device__ WarpRows() {
#pragma unroll
    for (int i = 0; i < S::kM; ++i) m[i][0] = m[i][1] = -kInfinity;
  }
};

/// Row of the tile.
__device__ inline int row_of(int first, int m, int half) {
  return first + 16 * m + 8 * half + lane_of() / 4;
}

struct Tile {
  int64_t b, h, i0, j0;
  int row;  // first of the warp's, in the tile
};

/// Bits of the pairs that dropout keeps, all where there is none. Asked for before anything else of
/// the tile needs registers.
template <class S>
__device__ inline uint64_t kept_of(const Problem& p, const Tile& at) {
  if (p.a.dropout <= 0) return ~uint64_t(0);
  return kept_pairs<S::kM, S::kN>(
      p, at.b, at.h, [&](int m, int, int e) { return at.i0 + row_of(at.row, m, e / 2); },
      [&](int, int n, int e) { return at.j0 + 8 * n + 2 * (lane_of() % 4) + e % 2; });
}

/// Scores by the rules of attention.
template <class S>
__device__ inline void apply_rules(const Problem& p, const Tile& at, float (&s)[S::kM][S::kN][4]) {
  const Attention& a = p.a;
  cap_scores(p, s);
  rule_scores(
      tile_rules(p, at.b, at.h, at.i0, at.j0), int(min(int64_t(S::kRows), a.queries - at.i0)),
      [&](int m, int, int e) { return row_of(at.row, m, e / 2); },
      [&](int, int n, int e) { return 8 * n + 2 * (lane_of() % 4) + e % 2; }, s);
}

/// S becomes P, as words; m, l and acc follow.
template <class S>
__device__ inline void online_softmax(const Problem& p, uint64_t kept, float (&s)[S::kM][S::kN][4],
                                      WarpRows<S>& rows, Words<S::kM, S::kN>& words) {
  using T = typename S::T;
#pragma unroll
  for (int m = 0; m < S::kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = rows.m[m][half];
#pragma unroll
      for (int n = 0; n < S::kN; ++n)
        now = fmaxf(now, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 1));
      now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, 2));
      const float origin = now == -kInfinity ? 0.0f : now;
      const float factor = exp2_approx((rows.m[m][half] - origin) * p.log2_unit);
      rows.m[m][half] = now;
      float sum = rows.l[m][half] * factor;
#pragma unroll
      for (int n = 0; n < S::kN; ++n) {
        const float p0 = exp2_approx((s[m][n][2 * half] - origin) * p.log2_unit);
        const float p1 = exp2_approx((s[m][n][2 * half + 1] - origin) * p.log2_unit);
        uint32_t word = pack2<T>(p0, p1);
        sum += low_half<T>(word) + high_half<T>(word);
        // l is that of all keys: dropout takes away from P V alone.
        if (p.a.dropout > 0) {
          const uint64_t bits = kept >> ((m * S::kN + n) * 4 + 2 * half);
          word = pack2<T>(bits & 1 ? low_half<T>(word) * p.kept : 0.0f,
                          bits & 2 ? high_half<T>(word) * p.kept : 0.0f);
        }
        words[m][n][half] = word;
      }
      rows.l[m][half] = sum;
#pragma unroll
      for (int c = 0; c < S::kDim / 8; ++c) {
        rows.acc[m][c][2 * half] *= factor;
        rows.acc[m][c][2 * half + 1] *= factor;
      }
    }
}

/// Values that are not finite are added for the pairs that have a weight for them, and become 0, so
/// that the others do not see them.
template <class S>
__device__ inline void keep_out_nonfinite(const MmaTile<typename S::T, S::kDim>& v,
                                          const Words<S::kM, S::kN>& words, unsigned* bad,
                                          WarpRows<S>& rows) {
  if (threadIdx.x < S::kKeys / 32) bad[threadIdx.x] = 0;
  __syncthreads();
  if (!__syncthreads_or(v.template find_nonfinite<S::kKeys>(bad))) return;
  take_nonfinite<S::kKeys>(words, v, bad, rows.acc);
}

/// O = acc / l, and what backward is told.
template <class S>
__device__ inline void write_rows(const Call& f, const Tile& at, WarpRows<S>& rows) {
  using T = typename S::T;
  const Attention& a = f.p.a;
#pragma unroll
  for (int m = 0; m < S::kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float l = rows.l[m][half];
      l += __shfl_xor_sync(kAllLanes, l, 1);
      l += __shfl_xor_sync(kAllLanes, l, 2);
      const int64_t i = at.i0 + row_of(at.row, m, half);
      if (i >= a.queries) continue;
      const RowEnd end = end_of_row(f.p, at.h, rows.m[m][half], l);
      const int64_t offset = at.b * f.y.batch + at.h * f.y.head + i * f.y.row;
      write_row(rows.acc[m], half, end.factor, out<T>(f.y.data) + offset,
                f.y_low ? out<T>(f.y_low) + offset : nullptr);
      if (lane_of() % 4 > 0) continue;
      const int64_t linear = (at.b * a.heads + at.h) * a.queries + i;
      f.row_max[linear] = end.max;
      f.row_log_sum[linear] = end.log_sum;
    }
}

template <class S>
__global__ void __launch_bounds__(32 * S::kWarps) mma_forward_tile(const __grid_constant__ Call f) {
  using T = typename S::T;
  const Attention& a = f.p.a;
  constexpr int kK = S::kRows * S::kDim, kV = kK + S::kKeys * S::kDim;
  T* memory = shared<T>();
  const MmaTile<T, S::kDim> q{memory, 0}, k{memory, kK}, v{memory, kV};
  auto* bad = reinterpret_cast<unsigned*>(memory + kV + S::kKeys * S::kDim);
  // The last tiles come first: under a causal mask they have the most to do.
  const int64_t head = int64_t(blockIdx.x) / f.tiles;
  Tile at{head / a.heads, head % a.heads, 0, 0, int(threadIdx.x) / 32 * 16 * S::kM};
  at.i0 = (f.tiles - 1 - int64_t(blockIdx.x) % f.tiles) * S::kRows;
  const int64_t kv = at.h / f.p.group;
  const Span queries{at.i0, min(a.queries, at.i0 + S::kRows)};
  Meeting meeting = Meeting::none;
  const auto next_tile = [&](int64_t j) {
    for (; j < a.keys; j += S::kKeys) {
      meeting = meeting_of(f.p, at.b, queries, {j, j + S::kKeys});
      if (meeting != Meeting::none) break;
    }
    return j;
  };
  const auto load = [&](const MmaTile<T, S::kDim>& tile, const HeadRows& x, int64_t j) {
    const int n = int(min(int64_t(S::kKeys), a.keys - j));
    tile.template load<S::kKeys>(row_at<T>(x, at.b, kv, j), x.row, n);
    cp_async_commit();
  };
  WarpRows<S> rows;
  at.j0 = next_tile(0);
  if (at.j0 < a.keys) {
    q.template load<S::kRows>(row_at<T>(f.q, at.b, at.h, at.i0), f.q.row,
                              int(queries.end - queries.begin));
    load(k, f.k, at.j0);
  }
  while (at.j0 < a.keys) {
    cp_async_wait<0>();
    __syncthreads();  // K is there, and V of the last tile has been used
    load(v, f.v, at.j0);
    const uint64_t kept = kept_of<S>(f.p, at);
    float s[S::kM][S::kN][4];
    multiply_rows(q, at.row, k, s);
    const bool some = meeting == Meeting::some;
    cp_async_wait<0>();
    __syncthreads();  // V is there, and K has been used
    const int64_t next = next_tile(at.j0 + S::kKeys);
    if (next < a.keys) load(k, f.k, next);
    if (some || has_rules(f.p)) apply_rules<S>(f.p, at, s);
    Words<S::kM, S::kN> words;
    online_softmax(f.p, kept, s, rows, words);
    if (some) keep_out_nonfinite(v, words, bad, rows);
    add_product(words, v, rows.acc);
    at.j0 = next;
  }
  write_rows(f, at, rows);
}

template <class S>
void launch_forward(const FlashAttentionForward& f, Call call) {
  const Attention& a = f.attention;
  call.tiles = ceil_div(a.queries, int64_t(S::kRows));
  launch(mma_forward_tile<S>,
         {.grid = call.tiles * a.batch * a.heads,
          .block = 32 * S::kWarps,
          .shared = S::kBytes,
          .stream = f.stream},
         call);
}

template <class T>
void choose_shape(const FlashAttentionForward& f, const Call& call) {
  switch (f.attention.dim) {
    case 64:
      return launch_forward<Shape<T, 64, 2, 4, 8>>(f, call);
    case 96:
      return launch_forward<Shape<T, 96, 1, 8, 8>>(f, call);
    default:
      return launch_forward<Shape<T, 128, 1, 8, 8>>(f, call);
  }
}

}  // namespace

void mma_forward(const FlashAttentionForward& f, const Problem& p) {
  const Call call{.p = p,
                  .q = f.q,
                  .k = f.k,
                  .v = f.v,
                  .y = f.y,
                  .y_low = f.y_low,
                  .row_max = out<float>(f.row_max),
                  .row_log_sum = out<float>(f.row_log_sum)};
  if (f.attention.dtype == bf16)
    choose_shape<bfloat16_t>(f, call);
  else
    choose_shape<float16_t>(f, call);
}

}  // namespace olm::kernels::cuda_attention
