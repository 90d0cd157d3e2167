// Chunks of logits, from one GEMM to the next: a block makes a row, reading it twice (three times
// with a softcap), the second time mostly from L2, and writes its gradient once. Blocks are large
// so that few rows are under way at a time. Blocks go on over the rows, as threads over elements.
#include <olm/kernels/linear_cross_entropy.h>
#include <olm/kernels/cuda/cross_entropy.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kMaxThreads = 1024, kMaxRowBlocks = 1 << 16;

/// x = cap · tanh(x / cap).
__device__ inline void softcap_row(float* row, int cols, float cap) {
  const float inverse = 1 / cap;
  for (int c = int(threadIdx.x); c < cols; c += int(blockDim.x))
    row[c] = cap * tanhf(row[c] * inverse);
  __syncthreads();
}

template <class T>
struct ChunkRows {
  float* losses;
  T* dlogits;
  float* logits;
  const float* scale;
  int64_t rows, logits_stride, dlogits_stride;
  float softcap;
};

template <class T>
__global__ void __launch_bounds__(kMaxThreads)
    cross_entropy_chunk(ChunkRows<T> k, LossTerms terms) {
  for (int64_t r = blockIdx.x; r < k.rows; r += gridDim.x) {
    const int64_t t = terms.target(r);
    float* x = k.logits + r * k.logits_stride;
    T* dx = k.dlogits ? k.dlogits + r * k.dlogits_stride : nullptr;
    if (terms.is_ignored(t)) {
      if (threadIdx.x == 0) k.losses[r] = 0;
      if (dx) clear_row(dx, terms.cols);
      continue;
    }
    if (k.softcap > 0) softcap_row(x, terms.cols, k.softcap);
    RowLse lse;
    const float loss = cross_entropy_row(x, terms, t, lse);
    if (threadIdx.x == 0) k.losses[r] = loss;
    if (!dx) continue;
    __syncthreads();  // all have read the target's logit, which dx may overwrite
    const LossGradient gradient(terms, lse, *k.scale, k.softcap > 0 ? k.softcap : 0.0f);
    cross_entropy_row_backward(x, terms, t, gradient, dx);
  }
}

template <class T>
__global__ void __launch_bounds__(kGridBlock)
    scale_gradient(T* y, const float* x, const float* factor, int64_t n, bool accumulate,
                   bool in_place, bool aligned) {
  constexpr int N = 4;
  const float by = *factor;
  if (in_place && by == 1) return;
  for (int64_t i = global_thread() * N; i < n; i += global_threads() * N) {
    const bool whole = aligned && n - i >= N;
    float v[N], before[N] = {};
    load_floats(v, x + i, whole, n - i);
    if (accumulate) load_floats(before, y + i, whole, n - i);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = fmaf(v[j], by, before[j]);
    store_floats(y + i, v, whole, n - i);
  }
}

}  // namespace

void run(Cuda, const CrossEntropyChunk& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    const ChunkRows<T> rows{.losses = out<float>(k.losses),
                            .dlogits = out<T>(k.dlogits),
                            .logits = out<float>(k.logits),
                            .scale = in<float>(k.scale),
                            .rows = k.rows,
                            .logits_stride = row_stride(k.logits_stride, k.cols),
                            .dlogits_stride = row_stride(k.dlogits_stride, k.cols),
                            .softcap = float(k.softcap)};
    launch(cross_entropy_chunk<T>,
           {.grid = blocks_for(k.rows, 1, kMaxRowBlocks),
            .block = loss_block<float>(k.cols, kMaxThreads),
            .stream = k.stream},
           rows, loss_terms(k.terms, k.targets, k.target_dtype, k.cols));
  });
}

void run(Cuda, const ScaleGradient& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(scale_gradient<T>, grid_over(ceil_div(k.n, 4), k.stream), out<T>(k.y), in<float>(k.x),
           in<float>(k.factor), k.n, k.accumulate, k.y == k.x && !k.accumulate,
           is_aligned(k.y, k.x));
  });
}

}  // namespace olm::kernels
