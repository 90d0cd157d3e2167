// RoPE. A thread rotates up to 16 bytes of one head (halves: 16 of each half), or copies as many
// past the rotated part; threads go on over the grid. x is read once, y written once; a token's row
// of cosines and sines serves all its heads from L1. Bound by memory.
#include <olm/kernels/rope.h>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {
namespace {

template <class T>
struct RopeHeads {
  T* y;
  const T* x;
  const float *cos, *sin;
  const int64_t* positions;
  int64_t stride_batch, stride_time, stride_head, offset, time, heads, max_position;
  int head_dim, rotated;
  bool inverse, halves, aligned;
  Faults faults;
};

/// Elements from `first` on of a head at x, into y; `row` is where its token's cosines begin.
template <class T, int N>
__device__ inline void rotate_interleaved(const RopeHeads<T>& k, const T* x, T* y, int64_t row,
                                          int first) {
  const int left = k.rotated - first;
  float v[N], c[N / 2], s[N / 2];
  load_floats(v, x + first, k.aligned, left);
  load_floats(c, k.cos + row + first / 2, k.aligned, left / 2);
  load_floats(s, k.sin + row + first / 2, k.aligned, left / 2);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const float a = v[2 * i], b = v[2 * i + 1], sine = k.inverse ? -s[i] : s[i];
    v[2 * i] = fmaf(a, c[i], -(b * sine));
    v[2 * i + 1] = fmaf(b, c[i], a * sine);
  }
  store_floats(y + first, v, k.aligned, left);
}

template <class T, int N>
__device__ inline void rotate_halves(const RopeHeads<T>& k, const T* x, T* y, int64_t row,
                                     int first) {
  const int half = k.rotated / 2, left = half - first;
  float a[N], b[N], c[N], s[N];
  load_floats(a, x + first, k.aligned, left);
  load_floats(b, x + half + first, k.aligned, left);
  load_floats(c, k.cos + row + first, k.aligned, left);
  load_floats(s, k.sin + row + first, k.aligned, left);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float first_half = a[i], sine = k.inverse ? -s[i] : s[i];
    a[i] = fmaf(first_half, c[i], -(b[i] * sine));
    b[i] = fmaf(b[i], c[i], first_half * sine);
  }
  store_floats(y + first, a, k.aligned, left);
  store_floats(y + half + first, b, k.aligned, left);
}

/// A head is cut into `turns` rotated pieces and then pieces that are copied, `pieces` in all.
template <class T>
__global__ void __launch_bounds__(kGridBlock)
    rope(RopeHeads<T> k, int64_t total, int turns, int pieces) {
  constexpr int N = kVec<T>;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const Division by_piece = divide(i, pieces), by_head = divide(by_piece.quotient, k.heads);
    const int64_t token = by_head.quotient, h = by_head.remainder;
    const int piece = int(by_piece.remainder);
    const Division at = divide(token, k.time);
    const int64_t position = k.positions ? k.positions[token] : at.remainder + k.offset;
    if (!k.faults.check(position, token, k.max_position)) continue;
    const T* x =
        k.x + at.quotient * k.stride_batch + at.remainder * k.stride_time + h * k.stride_head;
    T* y = k.y + by_piece.quotient * k.head_dim;
    const int64_t row = position * (k.rotated / 2);
    if (piece >= turns) {
      const int first = k.rotated + (piece - turns) * N, left = k.head_dim - first;
      float v[N];
      load_floats(v, x + first, k.aligned, left);
      store_floats(y + first, v, k.aligned, left);
    } else if (k.halves) {
      rotate_halves<T, N>(k, x, y, row, piece * N);
    } else {
      rotate_interleaved<T, N>(k, x, y, row, piece * N);
    }
  }
}

}  // namespace

void run(Cuda, const Rope& k) {
  check_offset(k);
  const bool halves = k.pairing == RopePairing::halves;
  visit_cuda_float(k.dtype, [&]<class T>() {
    constexpr int N = kVec<T>;
    const int64_t half = k.rotated / 2;
    const bool aligned =
        k.rotated % N == 0 && (!halves || half % N == 0) &&
        is_vectorizable<float>(half, k.cos, k.sin) && is_vectorizable<T>(k.head_dim, k.y) &&
        is_vectorizable<T>(k.stride_batch, k.x) && is_vectorizable<T>(k.stride_time, k.x) &&
        is_vectorizable<T>(k.stride_head, k.x);
    const RopeHeads<T> heads{.y = out<T>(k.y),
                             .x = in<T>(k.x),
                             .cos = in<float>(k.cos),
                             .sin = in<float>(k.sin),
                             .positions = k.positions,
                             .stride_batch = k.stride_batch,
                             .stride_time = k.stride_time,
                             .stride_head = k.stride_head,
                             .offset = k.offset,
                             .time = k.time,
                             .heads = k.heads,
                             .max_position = k.max_position,
                             .head_dim = int(k.head_dim),
                             .rotated = int(k.rotated),
                             .inverse = k.inverse,
                             .halves = halves,
                             .aligned = aligned,
                             .faults = {k.name, k.stream}};
    const int64_t turns = ceil_div(halves ? half : k.rotated, N);
    const int64_t pieces = turns + ceil_div(k.head_dim - k.rotated, N);
    const int64_t total = k.batch * k.time * k.heads * pieces;
    launch(rope<T>, grid_over(total, k.stream, 1 << 16), heads, total, int(turns), int(pieces));
  });
}

}  // namespace olm::kernels
