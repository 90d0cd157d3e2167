#pragma once
// Attention as its kernels on CUDA see it: which keys a query attends, and what happens to a score
// between Q Kᵀ and the softmax. Every kernel makes scores by the functions of this file, so that
// backward finds those of the forward to the last bit, however large they are.
#include <cstdint>

#include <olm/kernels/base/philox.h>
#include <olm/kernels/flash_attention.h>
#include <olm/kernels/cuda/packet.cuh>

namespace olm::kernels::cuda_attention {

/// Document ids are compared by tiles of so many rows first.
inline constexpr int kIdTile = 64;

/// Least and largest of the document ids of a tile.
struct IdRange {
  int32_t min, max;
};

/// What kernels are given by value. Scores are kept in a unit of their own, s · log2_unit being the
/// base-2 logarithm of a weight but for a constant: where Q Kᵀ is only scaled, that scale is left
/// to the softmax, behind the subtraction of the maximum, which is exact near it.
struct Problem {
  Attention a = {};
  int64_t group = 1;  // query heads per key and value head
  float scale = 1;    // what Q Kᵀ is multiplied by first
  float log2_unit = 1;
  double unit = 1;  // s · unit is the score of the contract
  float softcap = 0, per_softcap = 0;
  uint32_t threshold = 0;  // a weight is kept where 24 bits of its word reach this
  float kept = 1;          // and is then multiplied by that
  const uint64_t* rng_base = nullptr;
  // By batch row and tile of kIdTile rows; null without documents.
  const IdRange *query_ids = nullptr, *key_ids = nullptr;
};

/// Positions [begin, end).
struct Span {
  int64_t begin = 0, end = 0;
};

/// Keys that the query at `i` of batch row b attends by causality, window and length.
__device__ inline Span attended_keys(const Attention& a, int64_t b, int64_t i) {
  const int64_t position = i + a.offset;
  Span span{0, a.keys};
  if (a.causal) span.end = min(span.end, position + 1);
  if (a.window > 0) {
    span.begin = max(span.begin, position - a.window + 1);
    span.end = min(span.end, position + a.window);
  }
  if (a.key_lengths) span.end = min(span.end, int64_t(a.key_lengths[b]));
  return span;
}

__device__ inline IdRange ids_between(const IdRange* ids, int64_t begin, int64_t end) {
  IdRange all = ids[begin / kIdTile];
  for (int64_t t = begin / kIdTile + 1; t * kIdTile < end; ++t) {
    all.min = min(all.min, ids[t].min);
    all.max = max(all.max, ids[t].max);
  }
  return all;
}

/// How queries meet keys: not at all, in all pairs, or in some. Keys may end past the tensor's.
enum class Meeting : int { none, all, some };
__device__ inline Meeting meeting_of(const Problem& p, int64_t b, Span queries, Span keys) {
  const Attention& a = p.a;
  const Span first = attended_keys(a, b, queries.begin);
  const Span last = attended_keys(a, b, queries.end - 1);
  if (last.end <= keys.begin || first.begin >= keys.end) return Meeting::none;
  bool all = first.end >= keys.end && last.begin <= keys.begin && a.mask == nullptr;
  if (p.query_ids) {
    const int64_t q_tiles = ceil_div(a.queries, kIdTile), k_tiles = ceil_div(a.keys, kIdTile);
    const IdRange q =
        ids_between(p.query_ids + b * q_tiles, queries.begin, min(queries.end, a.queries));
    const IdRange k = ids_between(p.key_ids + b * k_tiles, keys.begin, min(keys.end, a.keys));
    if (q.max < k.min || k.max < q.min) return Meeting::none;
    all = all && q.min == q.max && k.min == k.max;
  }
  return all ? Meeting::all : Meeting::some;
}

/// A query row of a head: what its scores depend on beside Q Kᵀ.
struct QueryRow {
  Span keys = {};  // that it attends, but for mask and documents
  int64_t b = 0, position = 0;
  int64_t mask = 0;  // where its mask begins
  int32_t document = 0;
  float slope = 0;
  uint64_t words = 0;  // number of the Philox block of its first four weights
};

__device__ inline QueryRow query_row(const Problem& p, int64_t b, int64_t h, int64_t i) {
  const Attention& a = p.a;
  QueryRow row{.keys = attended_keys(a, b, i), .b = b, .position = i + a.offset};
  row.mask = b * a.mask_strides[0] + h * a.mask_strides[1] + i * a.mask_strides[2];
  if (a.query_documents) row.document = a.query_documents[b * a.queries + i];
  if (a.slopes) row.slope = in<float>(a.slopes)[h];
  if (a.dropout > 0) {
    const uint64_t first = a.dropout_offset + (p.rng_base ? *p.rng_base : 0);
    row.words = first / 4 + uint64_t((b * a.heads + h) * a.queries + i) *
                                uint64_t(ceil_div(a.keys, int64_t(4)));
  }
  return row;
}

inline constexpr float kInfinity = __builtin_huge_valf();

/// What a mask adds to a score: -infinity where it is false.
__device__ inline float mask_value(const Attention& a, int64_t at) {
  if (a.mask_dtype == boolean) return in<uint8_t>(a.mask)[at] ? 0.0f : -kInfinity;
  return load_float(a.mask, a.mask_dtype, at);
}

/// The score of a pair from `product`, q · k: -infinity where it is not attended, whatever the
/// product is. `through_cap`: the derivative of the softcap. Products and sums are rounded one by
/// one, so that no compiler joins them in one kernel and not in another.
__device__ inline float score(const Problem& p, const QueryRow& row, int64_t j, float product,
                              float& through_cap) {
  const Attention& a = p.a;
  through_cap = 1;
  if (j < row.keys.begin || j >= row.keys.end) return -kInfinity;
  if (a.query_documents && a.key_documents[row.b * a.keys + j] != row.document) return -kInfinity;
  float s = __fmul_rn(p.scale, product);
  if (p.softcap > 0) {
    const float t = tanhf(__fmul_rn(s, p.per_softcap));
    through_cap = fmaf(-t, t, 1.0f);
    s = __fmul_rn(p.softcap, t);
  }
  if (a.slopes) {
    const int64_t distance = row.position > j ? row.position - j : j - row.position;
    s = fmaf(-row.slope, float(distance), s);
  }
  if (a.mask) {
    const float add = mask_value(a, row.mask + j * a.mask_strides[3]);
    // Put in place of the score, not added to it: NaN and infinity would stay.
    s = add == -kInfinity ? add : __fadd_rn(s, add);
  }
  return s;
}

/// What dropout multiplies the weights of keys 4·n to 4·n + 3 by.
__device__ inline void dropout_factors(const Problem& p, const QueryRow& row, int64_t n,
                                       float (&factors)[4]) {
  const Philox4 words = philox(p.a.seed, row.words + uint64_t(n));
#pragma unroll
  for (int e = 0; e < 4; ++e) factors[e] = words.v[e] >> 8 >= p.threshold ? p.kept : 0.0f;
}

/// What backward needs of a query row.
struct RowStats {
  float max, log2_sum, delta;  // log2_sum: infinity for a row that attends nothing
};

/// The weight of a score, before dropout.
__device__ inline float weight(const Problem& p, const RowStats& row, float s) {
  if (s == -kInfinity) return 0;
  const float exponent = fmaf(s - row.max, p.log2_unit, -row.log2_sum);
  // Rounding alone makes it positive. NaN stays.
  return exp2f(exponent > 0 ? 0.0f : exponent);
}

/// dS from P and dP, the latter after dropout. A P of 1 leaves nothing to the other keys, so its dS
/// is 0, and not what rounding left of dP - delta; that of a P of 0 is 0 even where dP is NaN.
__device__ inline float score_gradient(float weight, float d_weight, float delta) {
  return weight == 0 || weight == 1 ? 0.0f : weight * (d_weight - delta);
}

/// How a row ends: what its sum of weighted values is multiplied by, and what backward is told.
struct RowEnd {
  float factor, max, log_sum;
};

/// From the row's maximum and sum. A sink is one more score, without a value.
__device__ inline RowEnd end_of_row(const Problem& p, int64_t h, float m, float l) {
  if (m == -kInfinity) m = 0;  // no keys, or a NaN among the scores
  const float sink = p.a.sink ? in<float>(p.a.sink)[h] : -kInfinity;
  if (sink == -kInfinity) return {l == 0 ? 0.0f : 1 / l, m, logf(l)};
  double kept = 1;
  const bool is_largest = l == 0 || double(sink) > double(m) * p.unit;
  if (is_largest) {
    // In the unit of m, where a small scale may leave no room for it.
    constexpr double kLargest = 3.4028234663852886e38;
    const float moved = float(fmin(fmax(double(sink) / p.unit, -kLargest), kLargest));
    kept = l == 0 ? 0 : exp((double(m) - double(moved)) * p.unit);
    m = moved;
  }
  constexpr double kFar = 64;
  double above = double(sink) - double(m) * p.unit;
  if (is_largest)  // of a huge sink m has too few digits
    above = above > kFar ? kFar : above < -kFar ? -kFar : above;
  const double total = double(l) * kept + exp(above);
  return {float(kept / total), m, float(log(total))};
}

/// Row i of head h of batch row b.
template <class T>
__device__ inline const T* row_at(const HeadRows& x, int64_t b, int64_t h, int64_t i) {
  return in<T>(x.data) + b * x.batch + h * x.head + i * x.row;
}
template <class T>
__device__ inline T* row_at(const HeadRowsOut& x, int64_t b, int64_t h, int64_t i) {
  return out<T>(x.data) + b * x.batch + h * x.head + i * x.row;
}

}  // namespace olm::kernels::cuda_attention
