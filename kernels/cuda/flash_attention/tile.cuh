#pragma once
// What the general kernels of attention are made of: tiles of f32 in shared memory, multiplied by
// FFMA. A block of kThreads owns a tile of rows (queries, or keys) and walks tiles of the others:
//   W[x, o] = others[x] · owned[o]         products()
//   out[o] += Σ_x W'[x, o] · values[x]     accumulate()
// where W' is what becomes of W in between. Thread (ty, tx) of 8 by 16 makes kR owned rows by 4
// others of W, and kR owned rows by 4 or 8 columns of out.
#include <olm/kernels/cuda/flash_attention/problem.cuh>

namespace olm::kernels::cuda_attention {

inline constexpr int kThreads = 128;
inline constexpr int kOthers = 64;               // rows of a tile that is walked to
inline constexpr int kSlice = 128;               // columns of out that a block makes
inline constexpr int kChunk = 32;                // columns of a tile that is multiplied
inline constexpr int kChunkStride = kChunk + 4;  // rows begin at different banks
inline constexpr int kOwned = 64;                // rows of an owned tile, where there are many

/// Where a block keeps things in shared memory, in floats: W (and dP), a number for each owned row,
/// and an area for chunks of both operands and then for the values.
template <int kR>
struct Layout {
  static constexpr int rows = 8 * kR;
  static constexpr int stride = rows + 4;  // of W
  static constexpr int w = kOthers * stride;
  static constexpr int chunks = (rows + kOthers) * kChunkStride;
  static constexpr int area(bool wide) {
    const int values = kOthers * ((wide ? kSlice : kSlice / 2) + 4);
    return values > chunks ? values : chunks;
  }
  static constexpr size_t bytes(bool wide, int matrices) {
    return sizeof(float) * size_t(rows + matrices * w + area(wide));
  }
};

__device__ inline int tile_x() { return int(threadIdx.x) % 16; }
__device__ inline int tile_y() { return int(threadIdx.x) / 16; }

/// Columns [0, depth) of rows [0, n) of a tile, widened; zeros up to a multiple of 4, and for rows
/// that row(r) has no pointer for.
template <class T, class Row>
__device__ inline void load_chunk(float* tile, int n, int depth, Row row) {
  const int c = int(threadIdx.x) % kChunk;
  if (c >= (depth + 3) / 4 * 4) return;
  for (int r = int(threadIdx.x) / kChunk; r < n; r += kThreads / kChunk) {
    const T* x = row(r);
    tile[r * kChunkStride + c] = x && c < depth ? to_float(x[c]) : 0.0f;
  }
}

/// products[r][c] = owned row kR · ty + r times other row tx + 16 c, over the `dim` columns in
/// order. owned(r), other(r): pointers to rows, or null. Begins with a barrier.
template <class T, int kR, class Owned, class Other>
__device__ inline void multiply_rows(float* area, int64_t dim, Owned owned, Other other,
                                     float (&products)[kR][4]) {
  float *a = area, *b = area + 8 * kR * kChunkStride;
#pragma unroll
  for (int r = 0; r < kR; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) products[r][c] = 0;
  const float* mine = a + tile_y() * kR * kChunkStride;
  const float* theirs = b + tile_x() * kChunkStride;
  for (int64_t d0 = 0; d0 == 0 || d0 < dim; d0 += kChunk) {
    const int depth = int(min(int64_t(kChunk), dim - d0));
    __syncthreads();
    load_chunk<T>(a, 8 * kR, depth, [&](int r) -> const T* {
      const T* x = owned(r);
      return x ? x + d0 : x;
    });
    load_chunk<T>(b, kOthers, depth, [&](int r) -> const T* {
      const T* x = other(r);
      return x ? x + d0 : x;
    });
    __syncthreads();
    for (int d = 0; d < depth; d += 4) {
      Vec<float, 4> y[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) y[c] = load_vec(theirs + c * 16 * kChunkStride + d);
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const Vec<float, 4> x = load_vec(mine + r * kChunkStride + d);
#pragma unroll
        for (int c = 0; c < 4; ++c)
#pragma unroll
          for (int e = 0; e < 4; ++e) products[r][c] += x.v[e] * y[c].v[e];
      }
    }
  }
}

/// W[x, o] of the tile, by multiply_rows().
template <class T, int kR, class Owned, class Other>
__device__ inline void products(float* area, int64_t dim, Owned owned, Other other, float* w) {
  float sums[kR][4];
  multiply_rows<T, kR>(area, dim, owned, other, sums);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    float* to = w + (tile_x() + 16 * c) * Layout<kR>::stride + tile_y() * kR;
    if constexpr (kR % 4 == 0) {
#pragma unroll
      for (int r = 0; r < kR; r += 4)
        store_vec(to + r,
                  Vec<float, 4>{{sums[r][c], sums[r + 1][c], sums[r + 2][c], sums[r + 3][c]}});
    } else {
#pragma unroll
      for (int r = 0; r < kR; ++r) to[r] = sums[r][c];
    }
  }
}

/// Columns [0, cols) of rows [0, n) of the values, widened, zeros beside them. True where a thread
/// met one that is not finite.
template <class T, class Row>
__device__ inline bool load_values(float* x, int n, int cols, Row row) {
  const int width = cols > kSlice / 2 ? kSlice : kSlice / 2;
  bool bad = false;
  for (int at = int(threadIdx.x); at < n * width; at += kThreads) {
    const int r = at / width, c = at % width;
    const float value = c < cols ? to_float(row(r)[c]) : 0.0f;
    bad |= !(fabsf(value) <= 3.4028235e38f);
    x[r * (width + 4) + c] = value;
  }
  return bad;
}

/// out[r] += Σ_x W[x, o] · values[x] over x < n, for the columns 4 tx and on of each 64.
/// `guarded`: values that are not finite count only where W is not 0, as 0 · NaN is NaN.
template <int kR, int kHalves, bool guarded>
__device__ inline void accumulate_columns(const float* w, const float* x, int n,
                                          float (&out)[kR][8]) {
  constexpr int kWidth = kHalves * kSlice / 2 + 4;
  w += tile_y() * kR;
  x += tile_x() * 4;
  for (int k = 0; k < n; ++k) {
    constexpr int kWide = kR % 4 == 0 ? 4 : 1;
    Vec<float, kWide> mine[kR / kWide];
#pragma unroll
    for (int r = 0; r < kR / kWide; ++r)
      mine[r] = load_vec<float, kWide>(w + k * Layout<kR>::stride + r * kWide);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const Vec<float, 4> value = load_vec(x + k * kWidth + half * kSlice / 2);
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const float weight = mine[r / kWide].v[r % kWide];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (!guarded || weight != 0) out[r][half * 4 + e] += weight * value.v[e];
      }
    }
  }
}

template <int kR>
__device__ inline void accumulate(const float* w, const float* x, int n, int cols, bool guarded,
                                  float (&out)[kR][8]) {
  if (tile_x() * 4 >= cols) return;
  if (cols > kSlice / 2)
    guarded ? accumulate_columns<kR, 2, true>(w, x, n, out)
            : accumulate_columns<kR, 2, false>(w, x, n, out);
  else
    guarded ? accumulate_columns<kR, 1, true>(w, x, n, out)
            : accumulate_columns<kR, 1, false>(w, x, n, out);
}

/// Column of element e of a thread's row of out.
__device__ inline int column_of(int e) { return e / 4 * (kSlice / 2) + tile_x() * 4 + e % 4; }

}  // namespace olm::kernels::cuda_attention
