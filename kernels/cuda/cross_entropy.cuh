#pragma once
// One row of the cross-entropy and of its gradient, made by a block; shared by cross_entropy and
// linear_cross_entropy. A row is cut where 16 bytes begin in memory, so that rows of any length and
// stride are read as vectors but for their ends.
#include <olm/kernels/cross_entropy.h>
#include <olm/kernels/cuda/index/indices.cuh>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {

inline constexpr float kInfinity = __builtin_huge_valf();
inline constexpr float kLog2E = 1.4426950408889634f;
/// Probabilities below e^this have no gradient (see CrossEntropyBackward).
inline constexpr float kMinLogProbability = -55.0f;
/// Pieces that a thread has in flight.
inline constexpr int kPiecesInFlight = 2;

/// CrossEntropyTerms as floats, the classes, and targets of either index dtype.
struct LossTerms {
  Indices targets;
  int cols;
  int64_t ignore_index;
  float smoothing, z_loss;

  __device__ int64_t target(int64_t r) const { return targets[r]; }
  /// A target that is no class was reported by CrossEntropyScale; its row is ignored.
  __device__ bool is_ignored(int64_t target) const {
    return target == ignore_index || uint64_t(target) >= uint64_t(cols);
  }
};

inline LossTerms loss_terms(const CrossEntropyTerms& terms, const void* targets, DType target_dtype,
                            int64_t cols) {
  require(cols <= int64_t(1) << 30, "cuda: cross-entropy over ", cols, " classes is too large");
  return {.targets = indices_of(targets, target_dtype),
          .cols = int(cols),
          .ignore_index = terms.ignore_index,
          .smoothing = float(terms.label_smoothing),
          .z_loss = float(terms.z_loss)};
}

/// Threads of a block for rows of `cols` elements of T.
template <class T>
int64_t loss_block(int64_t cols, int64_t max_threads) {
  return std::clamp<int64_t>(round_up(ceil_div(cols, kPiecesInFlight * kVec<T>), kWarp), kWarp,
                             max_threads);
}

/// The pieces of a row of T: piece q has columns [begin(q), begin(q) + N) that are in [0, cols).
template <class T>
struct RowPieces {
  static constexpr int N = kVec<T>;
  const T* row;
  int cols, shift, count;
  __device__ RowPieces(const T* row, int cols)
      : row(row),
        cols(cols),
        shift(int(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T))),
        count((cols + shift + N - 1) / N) {}
  __device__ int begin(int q) const { return q * N - shift; }
  __device__ bool holds(int column) const { return unsigned(column) < unsigned(cols); }
  __device__ bool is_whole(int q) const { return begin(q) >= 0 && begin(q) + N <= cols; }
  /// Piece q; -infinity where it is not in the row.
  __device__ Packed<T, N> load(int q) const {
    Packed<T, N> x = {};
    const int first = begin(q);
    if (is_whole(q)) {
      x.load(row + first);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j)
        x.set(j, holds(first + j) ? row[first + j] : from_float<T>(-kInfinity));
    }
    return x;
  }
};

/// lse of a row, in two parts; see CrossEntropyForward.
struct RowLse {
  float maximum, log_sum;
};

/// What a thread has seen of a row: the maximum, Σ e^(x - maximum), and Σ (x - maximum) over
/// `count` elements where smoothing asks for it. While all are -infinity, 0 stands for the maximum.
struct OnlineSum {
  float maximum = -kInfinity, sum = 0, below = 0, count = 0;
  __device__ static float base(float maximum) { return maximum == -kInfinity ? 0.0f : maximum; }

  __device__ void raise(float to) {
    if (sum != 0) sum *= expf(maximum - to);
    if (count != 0) below -= count * (base(to) - base(maximum));
    maximum = to;
  }
  template <class T>
  __device__ void add(const RowPieces<T>& x, int q, const Packed<T, kVec<T>>& piece, bool smooth) {
    constexpr int N = kVec<T>;
    float high = piece[0];
#pragma unroll
    for (int j = 1; j < N; ++j) high = fmaxf(high, piece[j]);
    if (high > maximum) raise(high);
    const float at = base(maximum);
    // Rounding the product moves terms that matter by less than 1e-6.
#pragma unroll
    for (int j = 0; j < N; ++j) sum += exp2_approx((piece[j] - at) * kLog2E);
    if (!smooth) return;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (!x.holds(x.begin(q) + j)) continue;
      below += piece[j] - at;
      count += 1;
    }
  }
};

/// The loss of a row, the same in every thread, and its lse. Differences from the maximum are
/// taken first, so that large logits lose no digits of the loss. x is read once.
template <class T>
__device__ inline float cross_entropy_row(const T* row, const LossTerms& terms, int64_t target,
                                          RowLse& lse) {
  const RowPieces<T> x(row, terms.cols);
  const bool smooth = terms.smoothing != 0;
  const int step = int(blockDim.x);
  OnlineSum mine;
  for (int q = int(threadIdx.x); q < x.count; q += kPiecesInFlight * step) {
    Packed<T, kVec<T>> pieces[kPiecesInFlight];
#pragma unroll
    for (int p = 0; p < kPiecesInFlight; ++p) pieces[p] = x.load(q + p * step);
#pragma unroll
    for (int p = 0; p < kPiecesInFlight; ++p) mine.add(x, q + p * step, pieces[p], smooth);
  }
  lse.maximum = block_max(mine.maximum);
  if (lse.maximum > mine.maximum) mine.raise(lse.maximum);
  lse.log_sum = logf(block_sum(mine.sum));
  float loss = lse.log_sum - (to_float(row[target]) - lse.maximum);
  if (smooth) {
    const float below = block_sum(mine.below);
    loss =
        (1 - terms.smoothing) * loss + terms.smoothing * (lse.log_sum - below / float(terms.cols));
  }
  const float total = lse.maximum + lse.log_sum;
  return terms.z_loss != 0 ? loss + terms.z_loss * total * total : loss;
}

/// The gradient of a row's loss by its logits, times dy.
struct LossGradient {
  float dy, weight, smoothing, spread, inverse_cap;
  RowLse lse;
  __device__ LossGradient(const LossTerms& terms, RowLse lse, float dy, float softcap)
      : dy(dy),
        weight(1 + 2 * terms.z_loss * (lse.maximum + lse.log_sum)),
        smoothing(terms.smoothing),
        spread(terms.smoothing / float(terms.cols)),
        inverse_cap(softcap != 0 ? 1 / softcap : 0.0f),
        lse(lse) {}
  /// Of a logit x that c · tanh(·/c) made, where there is a softcap c; results are of type Out.
  template <class Out>
  __device__ float operator()(float x, bool is_target) const {
    const float log_probability = x - lse.maximum - lse.log_sum;
    float g;
    if (is_target) {
      g = dy * (expf(log_probability) * weight - (1 - smoothing) - spread);
    } else {
      float p = std::is_same_v<Out, float> ? expf(log_probability)
                                           : exp2_approx(log_probability * kLog2E);
      if (log_probability < kMinLogProbability) p = 0;
      g = fmaf(p, dy * weight, -(dy * spread));
    }
    if (inverse_cap == 0) return g;
    const float ratio = x * inverse_cap;
    return g * fmaf(-ratio, ratio, 1.0f);
  }
};

/// dx = the gradient at x, which may be dx. From the row's end, which was read
/// last and is in a cache.
template <class T, class Out>
__device__ inline void cross_entropy_row_backward(const T* row, const LossTerms& terms,
                                                  int64_t target, const LossGradient& gradient,
                                                  Out* dx) {
  constexpr int N = kVec<T>;
  constexpr size_t kStored = N * sizeof(Out) < 16 ? N * sizeof(Out) : 16;
  const RowPieces<T> x(row, terms.cols);
  const int step = int(blockDim.x);
  for (int back = int(threadIdx.x); back < x.count; back += kPiecesInFlight * step) {
    Packed<T, N> pieces[kPiecesInFlight];
#pragma unroll
    for (int p = 0; p < kPiecesInFlight; ++p) pieces[p] = x.load(x.count - 1 - back - p * step);
#pragma unroll
    for (int p = 0; p < kPiecesInFlight; ++p) {
      const int q = x.count - 1 - back - p * step, first = x.begin(q);
      if (q < 0) continue;
      float g[N];
#pragma unroll
      for (int j = 0; j < N; ++j)
        g[j] = gradient.template operator()<Out>(pieces[p][j], first + j == target);
      if (x.is_whole(q) && reinterpret_cast<uintptr_t>(dx + first) % kStored == 0) {
        store_floats(dx + first, g);
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j)
          if (x.holds(first + j)) dx[first + j] = from_float<Out>(g[j]);
      }
    }
  }
}

template <class Out>
__device__ inline void clear_row(Out* dx, int cols) {
  for (int c = int(threadIdx.x); c < cols; c += int(blockDim.x)) dx[c] = from_float<Out>(0.0f);
}

}  // namespace olm::kernels
