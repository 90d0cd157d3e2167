// Attention, backward, on tensor cores (FlashAttention-2: Dao 2023, arXiv:2307.08691), for bf16 and
// f16 of head sizes 64, 96 and 128 without a mask tensor, in two kernels of one shape, so that
// nothing is added up between blocks and every sum has one order:
//   a block owns 64 rows of Q and dO:  dq += dS K                 over the tiles of keys
//   a block owns 64 rows of K and V:   dk += dSᵀ Q, dv += Pᵀ dO   over all query heads of the
//                                      group and their tiles of queries
// Both make S and dP = dO Vᵀ again, the second transposed, so that P and dS stay in registers as
// operands. 16 rows to a warp. Tiles of the others are copied one ahead (cp.async). Tiles that are
// attended whole see no rule; in others, pairs are masked one by one and operands that are not
// finite are kept from the pairs that may not see them. Traffic: owned rows once, the others once
// per 64 owned rows, from L2; seven GEMMs where one kernel with sums between blocks has five.
#include <olm/kernels/cuda/flash_attention/mma.cuh>
#include <olm/kernels/cuda/flash_attention/plan.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {
namespace {

enum class Owned : int { queries, keys };

struct Call {
  Problem p = {};
  HeadRows q = {}, k = {}, v = {}, dy = {};
  HeadRowsOut dq = {}, dk = {}, dv = {};
  AllStats stats = {};
  float scale = 1;
  int64_t tiles = 0;
};

template <class T_, int kDim_, int kWarps_, int kN_, Owned kOwned_>
struct Shape {
  using T = T_;
  static constexpr int kDim = kDim_, kWarps = kWarps_, kN = kN_;
  static constexpr bool kOfQueries = kOwned_ == Owned::queries;
  static constexpr int kRows = 16 * kWarps, kOthers = 8 * kN;
  static constexpr int kStage = 2 * kOthers * kDim;  // numbers of both operands of a tile
  static constexpr size_t kBytes = sizeof(T) * (2 * kRows * kDim + 2 * kStage) +
                                   sizeof(float) * 6 * kOthers + sizeof(unsigned) * (kOthers / 32);
  static_assert(4 * kN <= 32);  // bits of a thread's pairs
};

/// A tile of scores: `owned` and `other` are the first rows of its sides.
struct Tile {
  int b = 0, h = 0, owned = 0, other = 0;
  Meeting meeting = Meeting::none;
};

/// The operands of two GEMMs: S = first · firstᵀ, dP = second · secondᵀ.
template <class S>
struct Operands {
  MmaTile<typename S::T, S::kDim> first, second;
};

template <class S>
__device__ inline Operands<S> operands_at(typename S::T* memory, int first, int rows) {
  return {{memory, first}, {memory, first + rows * S::kDim}};
}

/// Starts the copies of rows from `row` on.
template <class S, int kRows>
__device__ inline void load_operands(const Operands<S>& to, const HeadRows& first,
                                     const HeadRows& second, int64_t b, int64_t h, int64_t row,
                                     int64_t all) {
  using T = typename S::T;
  const int n = int(min(int64_t(kRows), all - row));
  to.first.template load<kRows>(row_at<T>(first, b, h, row), first.row, n);
  to.second.template load<kRows>(row_at<T>(second, b, h, row), second.row, n);
}

__device__ inline RowStats stats_of(const Call& f, const Tile& at, int64_t i) {
  const Attention& a = f.p.a;
  if (i >= a.queries) return {0, kInfinity, 0};
  const int64_t row = (int64_t(at.b) * a.heads + at.h) * a.queries + i;
  return {f.stats.max[row], f.stats.log2_sum[row], f.stats.delta[row]};
}

/// Those of a tile of queries, three numbers to each, in shared memory.
template <class S>
__device__ inline void put_stats(const Call& f, const Tile& at, float* to) {
  for (int c = int(threadIdx.x); c < S::kOthers; c += 32 * S::kWarps) {
    const RowStats of = stats_of(f, at, at.other + c);
    to[3 * c] = of.max, to[3 * c + 1] = of.log2_sum, to[3 * c + 2] = of.delta;
  }
}

/// The sums of a warp: 16 rows of dq, or of dk and dv.
template <class S>
struct Sums {
  float first[1][S::kDim / 8][4] = {};
  float second[1][S::kOfQueries ? 1 : S::kDim / 8][4] = {};
};

/// Row of a tile that element e of a thread's fragment is in, and its column.
__device__ inline int row_of(int first, int e) { return first + 8 * (e / 2) + lane_of() / 4; }
__device__ inline int column_of(int n, int e) { return 8 * n + 2 * (lane_of() % 4) + e % 2; }

/// Where the pairs of a tile are in the tensors.
template <class S>
struct Pairs {
  int i0, j0;
  int row;  // first of the warp's, in the tile
  __device__ Pairs(const Tile& at, int first)
      : i0(S::kOfQueries ? at.owned : at.other),
        j0(S::kOfQueries ? at.other : at.owned),
        row(first) {}
  __device__ int query(int n, int e) const {
    return S::kOfQueries ? row_of(row, e) : column_of(n, e);
  }
  __device__ int key(int n, int e) const {
    return S::kOfQueries ? column_of(n, e) : row_of(row, e);
  }
};

/// Bits of the pairs that dropout keeps, all where there is none. Asked for before anything else of
/// the tile needs registers.
template <class S>
__device__ inline uint32_t kept_of(const Problem& p, const Tile& at, const Pairs<S>& pairs) {
  if (p.a.dropout <= 0) return ~0u;
  return uint32_t(kept_pairs<1, S::kN>(
      p, at.b, at.h, [&](int, int n, int e) { return pairs.i0 + pairs.query(n, e); },
      [&](int, int n, int e) { return pairs.j0 + pairs.key(n, e); }));
}

/// Scores by the rules of attention. dP becomes what P is to be multiplied by for dS.
template <class S, class StatsOf>
__device__ inline void apply_rules(const Problem& p, const Tile& at, const Pairs<S>& pairs,
                                   uint32_t kept, StatsOf stats, float (&s)[1][S::kN][4],
                                   float (&d)[1][S::kN][4]) {
  const Attention& a = p.a;
  cap_scores(p, s);
  const auto each = [&](auto change) {
#pragma unroll
    for (int n = 0; n < S::kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) change(n, e, d[0][n][e]);
  };
  if (a.dropout > 0)
    each([&](int n, int e, float& dx) { dx *= kept >> (n * 4 + e) & 1 ? p.kept : 0.0f; });
  each([&](int n, int e, float& dx) { dx -= stats(n, e).delta; });
  if (p.softcap > 0)
    each([&](int n, int e, float& dx) {
      const float t = s[0][n][e] * p.per_softcap;
      dx *= fmaf(-t, t, 1.0f);
    });
  const int rows = S::kOfQueries ? S::kRows : S::kOthers;
  rule_scores(
      tile_rules(p, at.b, at.h, pairs.i0, pairs.j0), int(min(int64_t(rows), a.queries - pairs.i0)),
      [&](int, int n, int e) { return pairs.query(n, e); },
      [&](int, int n, int e) { return pairs.key(n, e); }, s);
}

/// S and dP become P after dropout and dS, as words. stats(n, e): of the pair's query row.
template <class S, class StatsOf>
__device__ inline void find_gradients(const Problem& p, const Tile& at, const Pairs<S>& pairs,
                                      uint32_t kept, StatsOf stats, float (&s)[1][S::kN][4],
                                      float (&d)[1][S::kN][4], Words<1, S::kN>& weights,
                                      Words<1, S::kN>& gradients) {
  using T = typename S::T;
  if (at.meeting == Meeting::some || has_rules(p)) {
    apply_rules<S>(p, at, pairs, kept, stats, s, d);
  } else {
#pragma unroll
    for (int n = 0; n < S::kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[0][n][e] -= stats(n, e).delta;
  }
#pragma unroll
  for (int n = 0; n < S::kN; ++n) {
    float P[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const RowStats of = stats(n, e);
      const float x = s[0][n][e];
      const float exponent = fmaf(x - of.max, p.log2_unit, -of.log2_sum);
      P[e] = x == -kInfinity ? 0.0f : exp2_approx(exponent > 0 ? 0.0f : exponent);
      d[0][n][e] = score_gradient(P[e], d[0][n][e], 0.0f);
    }
    if (p.a.dropout > 0)
#pragma unroll
      for (int e = 0; e < 4; ++e) P[e] *= kept >> (n * 4 + e) & 1 ? p.kept : 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights[0][n][half] = pack2<T>(P[2 * half], P[2 * half + 1]);
      gradients[0][n][half] = pack2<T>(d[0][n][2 * half], d[0][n][2 * half + 1]);
    }
  }
}

/// Puts 0 in place of what is not finite in the operand of dS: what it may have spoilt, S and dP,
/// and by them P and dS, already is. True where that of P, which has not seen it, has any.
template <class S>
__device__ inline bool meets_nonfinite(const Operands<S>& others, unsigned* bad) {
  if (threadIdx.x < S::kOthers / 32) bad[threadIdx.x] = 0;
  __syncthreads();  // and S and dP have been made
  others.first.template clear_nonfinite<S::kOthers>();
  bool any = false;
  if constexpr (!S::kOfQueries) any = others.second.template find_nonfinite<S::kOthers>(bad);
  return __syncthreads_or(any) != 0;
}

/// What the tile at `at` adds.
template <class S, class StatsOf>
__device__ inline void add_tile(const Call& f, const Tile& at, int row, const Operands<S>& owned,
                                const Operands<S>& others, StatsOf stats, unsigned* bad,
                                Sums<S>& sums) {
  const Pairs<S> pairs(at, row);
  const uint32_t kept = kept_of(f.p, at, pairs);
  float s[1][S::kN][4], d[1][S::kN][4];
  multiply_rows(owned.first, row, others.first, s);
  multiply_rows(owned.second, row, others.second, d);
  Words<1, S::kN> weights, gradients;
  find_gradients<S>(f.p, at, pairs, kept, stats, s, d, weights, gradients);
  const bool any = at.meeting == Meeting::some && meets_nonfinite<S>(others, bad);
  add_product(gradients, others.first, sums.first);
  if constexpr (!S::kOfQueries) {
    if (any) take_nonfinite<S::kOthers>(weights, others.second, bad, sums.second);
    add_product(weights, others.second, sums.second);
  }
}

/// The tiles that a block walks: over the query heads of its group, where keys are owned.
template <class S>
struct Walk {
  const Call& f;
  Tile at;
  int last_head, others;

  __device__ Walk(const Call& call, int b, int h, int heads, int owned)
      : f(call), at{b, h, owned, 0, Meeting::none}, last_head(h + heads - 1) {
    others = int(S::kOfQueries ? f.p.a.keys : f.p.a.queries);
    find();
  }
  __device__ bool done() const { return at.h > last_head; }
  __device__ void next() {
    at.other += S::kOthers;
    find();
  }
  __device__ void find() {
    for (; at.h <= last_head; ++at.h, at.other = 0)
      for (; at.other < others; at.other += S::kOthers) {
        const Span owned{at.owned, at.owned + S::kRows}, other{at.other, at.other + S::kOthers};
        const Span queries = S::kOfQueries ? owned : other;
        at.meeting = meeting_of(f.p, at.b, {queries.begin, min(queries.end, f.p.a.queries)},
                                S::kOfQueries ? other : owned);
        if (at.meeting != Meeting::none) return;
      }
  }
};

template <class S>
__device__ inline void write_sums(const Call& f, int64_t b, int64_t h, int64_t first,
                                  const Sums<S>& sums) {
  using T = typename S::T;
  const int64_t all = S::kOfQueries ? f.p.a.queries : f.p.a.keys;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + row_of(0, 2 * half);
    if (row >= all) continue;
    const HeadRowsOut& to = S::kOfQueries ? f.dq : f.dk;
    T* const none = nullptr;
    if (to.data) write_row(sums.first[0], half, f.scale, row_at<T>(to, b, h, row), none);
    if constexpr (!S::kOfQueries)
      if (f.dv.data) write_row(sums.second[0], half, 1.0f, row_at<T>(f.dv, b, h, row), none);
  }
}

template <class S>
__global__ void __launch_bounds__(32 * S::kWarps, 2) gradient_tile(const __grid_constant__ Call f) {
  using T = typename S::T;
  const Attention& a = f.p.a;
  T* memory = shared<T>();
  constexpr int kStages = 2 * S::kRows * S::kDim;
  const Operands<S> owned = operands_at<S>(memory, 0, S::kRows);
  // Of two tiles of queries.
  float* stats = reinterpret_cast<float*>(memory + kStages + 2 * S::kStage);
  auto* bad = reinterpret_cast<unsigned*>(stats + 6 * S::kOthers);
  const int64_t heads = S::kOfQueries ? a.heads : a.kv_heads;
  const int group = S::kOfQueries ? 1 : int(f.p.group);
  const int64_t head = int64_t(blockIdx.x) / f.tiles;
  const int b = int(head / heads), h = int(head % heads);
  const int first = int(int64_t(blockIdx.x) % f.tiles) * S::kRows;
  const int row = int(threadIdx.x) / 32 * 16;
  const auto load_others = [&](const Tile& at, int stage) {
    const Operands<S> to = operands_at<S>(memory, kStages + stage * S::kStage, S::kOthers);
    if constexpr (S::kOfQueries) {
      load_operands<S, S::kOthers>(to, f.k, f.v, b, h / f.p.group, at.other, a.keys);
    } else {
      load_operands<S, S::kOthers>(to, f.q, f.dy, b, at.h, at.other, a.queries);
      put_stats<S>(f, at, stats + stage * 3 * S::kOthers);
    }
    cp_async_commit();
  };
  Sums<S> sums;
  Walk<S> walk(f, b, h * group, group, first);
  RowStats mine[2] = {};
  if (!walk.done()) {
    if constexpr (S::kOfQueries) {
      load_operands<S, S::kRows>(owned, f.q, f.dy, b, h, first, a.queries);
      for (int half = 0; half < 2; ++half)
        mine[half] = stats_of(f, walk.at, first + row_of(row, 2 * half));
    } else {
      load_operands<S, S::kRows>(owned, f.k, f.v, b, h, first, a.keys);
    }
    load_others(walk.at, 0);
  }
  for (int stage = 0; !walk.done(); stage ^= 1) {
    const Tile at = walk.at;
    walk.next();
    if (walk.done()) {
      cp_async_wait<0>();
    } else {
      load_others(walk.at, stage ^ 1);
      cp_async_wait<1>();
    }
    __syncthreads();
    const float* columns = stats + stage * S::kOthers * 3;
    const auto stats_at = [&](int n, int e) {
      if constexpr (S::kOfQueries) return mine[e / 2];
      const float* column = columns + column_of(n, e) * 3;
      return RowStats{column[0], column[1], column[2]};
    };
    add_tile<S>(f, at, row, owned, operands_at<S>(memory, kStages + stage * S::kStage, S::kOthers),
                stats_at, bad, sums);
    __syncthreads();  // before this stage is copied to again
  }
  write_sums<S>(f, b, h, first + row, sums);
}

template <class T, int kDim, int kN, Owned owned>
void launch_gradient(const FlashAttentionBackward& f, Call call) {
  using S = Shape<T, kDim, 4, kN, owned>;
  static_assert(S::kBytes <= kMaxShared);
  const Attention& a = f.attention;
  call.tiles = ceil_div(S::kOfQueries ? a.queries : a.keys, int64_t(S::kRows));
  launch(gradient_tile<S>,
         {.grid = call.tiles * a.batch * (S::kOfQueries ? a.heads : a.kv_heads),
          .block = 32 * S::kWarps,
          .shared = S::kBytes,
          .stream = f.stream},
         call);
}

template <class T>
void choose_shape(const FlashAttentionBackward& f, const Call& call) {
  const auto both = [&]<int kDim, int kN>() {
    if (f.dq.data) launch_gradient<T, kDim, kN, Owned::queries>(f, call);
    if (f.dk.data || f.dv.data) launch_gradient<T, kDim, kN, Owned::keys>(f, call);
  };
  switch (f.attention.dim) {
    case 64:
      return both.template operator()<64, 8>();
    case 96:
      return both.template operator()<96, 4>();
    default:
      return both.template operator()<128, 4>();
  }
}

}  // namespace

void mma_backward(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats) {
  const Call call{.p = p,
                  .q = f.q,
                  .k = f.k,
                  .v = f.v,
                  .dy = f.dy,
                  .dq = f.dq,
                  .dk = f.dk,
                  .dv = f.dv,
                  .stats = stats,
                  .scale = float(p.a.scale)};
  if (f.attention.dtype == bf16)
    choose_shape<bfloat16_t>(f, call);
  else
    choose_shape<float16_t>(f, call);
}

}  // namespace olm::kernels::cuda_attention
