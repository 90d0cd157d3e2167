#pragma once
// What attention's kernels on tensor cores are made of. Tiles of rows of kDim 16-bit numbers lie in
// shared memory, where the 16-byte chunks of a row are permuted by XOR, so that the 8 rows that
// ldmatrix reads at once begin at different banks. A warp makes kM times 16 rows of a GEMM.
#include <olm/kernels/cuda/flash_attention/problem.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {

__device__ inline int lane_of() { return int(threadIdx.x) % 32; }

template <class T, int kDim>
struct MmaTile {
  static constexpr int kChunks = kDim / 8;
  static_assert(kDim % 32 == 0);
  T* memory;
  int first;  // element where the tile begins, a multiple of kDim

  /// Rows of 192 bytes begin at every other half of the banks by themselves.
  __device__ static int mask_of(int row) { return kDim % 64 == 0 ? row & 7 : row >> 1 & 3; }
  __device__ T* at(int row, int chunk) const {
    return memory + first + (row * kChunks + (chunk ^ mask_of(row))) * 8;
  }
  /// As at(row + lane_row, 2 k + lane_chunk), where `row` is a multiple of 8 and `lane_chunk` 0 or
  /// 1. Rows of a power of two let k flip bits of one address, where the compiler would keep one
  /// for each k.
  __device__ const T* at(int row, int lane_row, int k, int lane_chunk) const {
    const int chunk = lane_chunk ^ mask_of(lane_row);
    if constexpr (kDim % 64 == 0)
      return memory + ((first + lane_row * kDim + chunk * 8) ^ (16 * k)) + row * kDim;
    else
      return memory + first + (row + lane_row) * kDim + ((2 * k) ^ chunk) * 8;
  }

  /// Starts the copy of n rows; zeros in place of those up to kRows.
  template <int kRows>
  __device__ void load(const T* rows, int64_t stride, int n) const {
    for (int i = int(threadIdx.x); i < kRows * kChunks; i += int(blockDim.x)) {
      const int r = i / kChunks, c = i % kChunks;
      cp_async16(at(r, c), rows + (r < n ? r * stride : 0) + c * 8, r < n);
    }
  }

  /// Whether 16 bits are infinity or NaN.
  __device__ static bool is_nonfinite(uint32_t bits) {
    constexpr uint32_t kExponent = std::is_same_v<T, bfloat16_t> ? 0x7f80u : 0x7c00u;
    return (bits & kExponent) == kExponent;
  }
  /// Calls meet(row, chunk) for the chunks of kRows rows in which something is not finite. The
  /// threads of the block share them.
  template <int kRows, class Meet>
  __device__ void for_nonfinite(const Meet& meet) const {
    for (int i = int(threadIdx.x); i < kRows * kChunks; i += int(blockDim.x)) {
      const auto x = load_vec(reinterpret_cast<uint32_t*>(memory + first + i * 8));
      bool bad = false;
#pragma unroll
      for (int e = 0; e < 4; ++e) bad = bad || is_nonfinite(x.v[e]) || is_nonfinite(x.v[e] >> 16);
      if (bad) meet(i / kChunks, memory + first + i * 8);
    }
  }
  /// Sets the bits, of 32 to a word, of rows with what is not finite; true where this thread met
  /// any.
  template <int kRows>
  __device__ bool find_nonfinite(unsigned* rows) const {
    bool any = false;
    for_nonfinite<kRows>([&](int row, T*) {
      any = true;
      atomicOr(rows + row / 32, 1u << row % 32);
    });
    return any;
  }
  /// Puts 0 in place of what is not finite.
  template <int kRows>
  __device__ void clear_nonfinite() const {
    for_nonfinite<kRows>([](int, T* chunk) {
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (is_nonfinite(chunk[e].bits)) chunk[e].bits = 0;
    });
  }

  /// A operand: rows [row, row + 16), columns [16 k, 16 k + 16).
  __device__ void load_a(int row, int k, uint32_t (&a)[4]) const {
    ldmatrix_x4<false>(a, at(row, lane_of() % 16, k, lane_of() / 16));
  }
  /// B operands, of the transposed tile: columns as above of rows [row, row + 8) in b[0] and b[1],
  /// of the next 8 rows in b[2] and b[3].
  __device__ void load_b_of_rows(int row, int k, uint32_t (&b)[4]) const {
    ldmatrix_x4<false>(b, at(row, lane_of() / 16 * 8 + lane_of() % 8, k, lane_of() / 8 % 2));
  }
  /// B operands: rows [row, row + 16) of columns [16 c, 16 c + 8) in b[0] and b[1], of the next 8
  /// columns in b[2] and b[3].
  __device__ void load_b_of_columns(int row, int c, uint32_t (&b)[4]) const {
    ldmatrix_x4<true>(b, at(row, lane_of() % 16, c, lane_of() / 16));
  }
};

/// Two B operands of 16 columns.
template <class T>
__device__ inline void mma_pair(float (&lower)[4], float (&upper)[4], const uint32_t (&a)[4],
                                const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  mma_m16n8k16<T>(lower, a, first);
  mma_m16n8k16<T>(upper, a, second);
}

/// s = rows of x from `row` on times the 8 kN rows of y.
template <class T, int kDim, int kM, int kN>
__device__ inline void multiply_rows(const MmaTile<T, kDim>& x, int row, const MmaTile<T, kDim>& y,
                                     float (&s)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
#pragma unroll 2
  for (int k = 0; k < kDim / 16; ++k) {  // operands of more steps would fill the registers
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) x.load_a(row + 16 * m, k, a[m]);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      y.load_b_of_rows(8 * n, k, b);
#pragma unroll
      for (int m = 0; m < kM; ++m) mma_pair<T>(s[m][n], s[m][n + 1], a[m], b);
    }
  }
}

/// A matrix of a warp as an A operand: what lay in s[m][n][2 h] and the next, rounded to T.
template <int kM, int kN>
using Words = uint32_t[kM][kN][2];

template <int kN>
__device__ inline void operand_of(const uint32_t (&words)[kN][2], int k, uint32_t (&a)[4]) {
  a[0] = words[2 * k][0], a[1] = words[2 * k][1];
  a[2] = words[2 * k + 1][0], a[3] = words[2 * k + 1][1];
}

/// acc += words · y, all 8 kN rows of y.
template <class T, int kDim, int kM, int kN>
__device__ inline void add_product(const Words<kM, kN>& words, const MmaTile<T, kDim>& y,
                                   float (&acc)[kM][kDim / 8][4]) {
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) operand_of(words[m], k, a[m]);
#pragma unroll
    for (int c = 0; c < kDim / 16; ++c) {
      uint32_t b[4];
      y.load_b_of_columns(16 * k, c, b);
#pragma unroll
      for (int m = 0; m < kM; ++m) mma_pair<T>(acc[m][2 * c], acc[m][2 * c + 1], a[m], b);
    }
  }
}

/// The halves of a word, widened.
template <class T>
__device__ inline float low_half(uint32_t word) {
  T x;
  x.bits = uint16_t(word & 0xffffu);
  return to_float(x);
}
template <class T>
__device__ inline float high_half(uint32_t word) {
  return low_half<T>(word >> 16);
}

/// What the elements of y that are not finite add to acc, row by row of y and weight by weight, so
/// that no 0 meets them. bad: bits of the rows that have any.
template <class T, int kDim, int kM, int kN>
__device__ inline void add_nonfinite(const Words<kM, kN>& words, const MmaTile<T, kDim>& y,
                                     const unsigned* bad, float (&acc)[kM][kDim / 8][4]) {
#pragma unroll 1
  for (int row = 0; row < 8 * kN; ++row) {
    if ((bad[row / 32] >> row % 32 & 1) == 0) continue;
    float weights[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t word = 0;
#pragma unroll
        for (int n = 0; n < kN; ++n)
          word |= words[m][n][half] & (n == row / 8 ? ~0u : 0u);  // registers have no index
        word = __shfl_sync(kAllLanes, word, lane_of() / 4 * 4 + row % 8 / 2);
        weights[m][half] = row % 2 ? high_half<T>(word) : low_half<T>(word);
      }
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const T x = y.at(row, c)[2 * (lane_of() % 4) + e];
        if (!y.is_nonfinite(x.bits)) continue;
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            if (weights[m][half] != 0) acc[m][c][2 * half + e] += weights[m][half] * to_float(x);
      }
  }
}

/// As above, and puts 0 in their place. All threads of the block must come.
template <int kRows, class T, int kDim, int kM, int kN>
__device__ inline void take_nonfinite(const Words<kM, kN>& words, const MmaTile<T, kDim>& y,
                                      const unsigned* bad, float (&acc)[kM][kDim / 8][4]) {
  add_nonfinite(words, y, bad, acc);
  __syncthreads();  // all warps have seen them
  y.template clear_nonfinite<kRows>();
  __syncthreads();
}

/// Which pairs of a tile are attended but for documents, and how far apart they are: query r,
/// counted like keys from the tile's first, attends [first + r, min(cap, last + r)).
struct TileRules {
  int first, last, cap;
  float position, slope;  // of query 0
  const int32_t *query_documents = nullptr, *key_documents = nullptr;
};

__device__ inline TileRules tile_rules(const Problem& p, int64_t b, int64_t h, int64_t i0,
                                       int64_t j0) {
  const Attention& a = p.a;
  constexpr int64_t kFar = 1 << 24;
  const auto near = [](int64_t x) { return int(min(kFar, max(-kFar, x))); };
  const int64_t position = i0 + a.offset - j0;
  int64_t first = -kFar, last = kFar, cap = a.keys;
  if (a.causal) last = position + 1;
  if (a.window > 0) {
    first = position - a.window + 1;
    last = min(last, position + a.window);
  }
  if (a.key_lengths) cap = min(cap, int64_t(a.key_lengths[b]));
  TileRules rules{near(first), near(last), near(cap - j0), float(position),
                  a.slopes ? in<float>(a.slopes)[h] : 0.0f};
  if (a.query_documents) {
    rules.query_documents = a.query_documents + b * a.queries + i0;
    rules.key_documents = a.key_documents + b * a.keys + j0;
  }
  return rules;
}

/// True where scores are more than Q Kᵀ times a scale that the softmax sees to, or dropped out.
__device__ inline bool has_rules(const Problem& p) {
  return p.scale != 1 || p.softcap > 0 || p.a.slopes || p.a.dropout > 0;
}

/// Scores through scale and softcap, in place.
template <int kM, int kN>
__device__ inline void cap_scores(const Problem& p, float (&s)[kM][kN][4]) {
  if (p.scale == 1 && p.softcap <= 0) return;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[m][n][e] = __fmul_rn(p.scale, s[m][n][e]);
        if (p.softcap > 0) s[m][n][e] = p.softcap * tanhf(s[m][n][e] * p.per_softcap);
      }
}

/// The score after cap_scores() of query r and a key of the tile, with its slope; -infinity where
/// it is not attended.
__device__ inline float ruled_score(const TileRules& rules, int r, int key, float s) {
  const bool attended = key >= rules.first + r && key < min(rules.cap, rules.last + r);
  return attended ? fmaf(-rules.slope, fabsf(rules.position + float(r - key)), s) : -kInfinity;
}

/// Scores by ruled_score() and documents, in place; query(m, n, e) and key(m, n, e) say where in
/// the tile they are. Queries from `queries` on do not exist.
template <int kM, int kN, class Query, class Key>
__device__ inline void rule_scores(const TileRules& rules, int queries, Query query, Key key,
                                   float (&s)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = query(m, n, e);
        s[m][n][e] = r < queries ? ruled_score(rules, r, key(m, n, e), s[m][n][e]) : -kInfinity;
      }
  if (rules.key_documents == nullptr) return;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = s[m][n][e];
        if (x == -kInfinity) continue;  // it may be past the tensor
        if (rules.key_documents[key(m, n, e)] != rules.query_documents[query(m, n, e)])
          x = -kInfinity;
      }
}

/// Bits of which pairs dropout keeps, bit (m · kN + n) · 4 + e. query(m, n, e), key(m, n, e): where
/// they are in the tensors.
template <int kM, int kN, class Query, class Key>
__device__ inline uint64_t kept_pairs(const Problem& p, int64_t b, int64_t h, Query query,
                                      Key key) {
  static_assert(kM * kN * 4 <= 64);
  uint64_t bits = 0;
#pragma unroll 1
  for (int x = 0; x < kM * kN * 4; ++x) {
    const int m = x / (4 * kN), n = x / 4 % kN, e = x % 4;
    const int64_t i = query(m, n, e), j = key(m, n, e);
    if (i >= p.a.queries) continue;
    const uint64_t first = p.a.dropout_offset + (p.rng_base ? *p.rng_base : 0);
    const uint64_t row = uint64_t((b * p.a.heads + h) * p.a.queries + i);
    const uint64_t block = first / 4 + row * uint64_t(ceil_div(p.a.keys, int64_t(4)));
    const Philox4 words = philox(p.a.seed, block + uint64_t(j) / 4);
    const uint32_t pair_low = j & 1 ? words.v[1] : words.v[0];
    const uint32_t pair_high = j & 1 ? words.v[3] : words.v[2];
    const uint32_t word = j & 2 ? pair_high : pair_low;
    bits |= uint64_t(word >> 8 >= p.threshold) << x;
  }
  return bits;
}

/// Writes row `half` of 16 rows of a result, two neighbours to a lane. `low`: what rounding takes.
template <class T, int kColumns>
__device__ inline void write_row(const float (&acc)[kColumns][4], int half, float factor, T* to,
                                 T* low) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const float x0 = acc[c][2 * half] * factor, x1 = acc[c][2 * half + 1] * factor;
    const int at = 8 * c + 2 * (lane_of() % 4);
    const uint32_t word = pack2<T>(x0, x1);
    *reinterpret_cast<uint32_t*>(to + at) = word;
    if (low)
      *reinterpret_cast<uint32_t*>(low + at) =
          pack2<T>(x0 - low_half<T>(word), x1 - high_half<T>(word));
  }
}

}  // namespace olm::kernels::cuda_attention
