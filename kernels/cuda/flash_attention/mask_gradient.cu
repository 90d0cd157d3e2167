// Gradients of attention's additive mask and of its sinks.
//   dmask = dS, summed over what the mask was repeated to (one mask for all heads, or one row for
//           all queries)
//   dsink = -Σ over rows of the sink's P times delta: its dP is 0
// A block owns a tile of 64 by 64 of the mask and adds up, in order, dS of everything that tile was
// repeated to, in shared memory, where each thread keeps to its own elements. A stride of 0 in
// dmask_strides says that a dimension was repeated. A block makes one dsink: its threads share the
// rows of the head. Traffic: q, k, v and dy once per tile of the mask.
#include <olm/kernels/cuda/flash_attention/gradient.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_attention {
namespace {

struct MaskCall : BackwardCall {
  float* dmask = nullptr;
  int64_t strides[4] = {};
  int64_t sizes[4] = {};  // of the mask, in tiles: batch rows, heads, tiles of queries and of keys
};

/// Indices of one dimension that an element stands for: one, or all where it was repeated.
__device__ inline Span covered(int64_t stride, int64_t index, int64_t all) {
  return stride ? Span{index, index + 1} : Span{0, all};
}

/// Writes the sums [keys, queries] of a tile. Those of repeated queries and keys, all of whose
/// tiles were added to one, meet here, and the first row or column is theirs. Pairs past the edges
/// are attended by nobody, so that their sums are 0.
__device__ inline void write_sums(const MaskCall& f, const int64_t* index, float* sums) {
  constexpr int stride = Layout<8>::stride;
  const Attention& a = f.p.a;
  const int64_t* s = f.strides;
  const int t = int(threadIdx.x);
  __syncthreads();
  if (!s[2] && t < kOthers)
    for (int q = 1; q < kOthers; ++q) sums[t * stride] += sums[t * stride + q];
  __syncthreads();
  if (!s[3] && t < kOthers)
    for (int key = 1; key < kOthers; ++key) sums[t] += sums[key * stride + t];
  __syncthreads();
  const int64_t i0 = index[2] * kOthers, j0 = index[3] * kOthers;
  const int queries = s[2] ? rows_from(i0, a.queries) : 1, keys = s[3] ? rows_from(j0, a.keys) : 1;
  float* to = f.dmask + index[0] * s[0] + index[1] * s[1] + i0 * s[2] + j0 * s[3];
  for (int n = t; n < queries * keys; n += kThreads) {
    const int q = n / keys, key = n % keys;
    to[q * s[2] + key * s[3]] = sums[key * stride + q];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) mask_tile(const __grid_constant__ MaskCall f) {
  const Attention& a = f.p.a;
  float* sums = shared<float>();
  float *w = sums + Layout<8>::w, *w2 = w + Layout<8>::w, *area = w2 + Layout<8>::w;
  int64_t index[4], rest = blockIdx.x;
#pragma unroll
  for (int d = 3; d >= 0; --d) {
    index[d] = rest % f.sizes[d];
    rest /= f.sizes[d];
  }
  for (int n = int(threadIdx.x); n < Layout<8>::w; n += kThreads) sums[n] = 0;
  const Span batches = covered(f.strides[0], index[0], a.batch);
  const Span heads = covered(f.strides[1], index[1], a.heads);
  const Span q_tiles = covered(f.strides[2], index[2], ceil_div(a.queries, int64_t(kOthers)));
  const Span k_tiles = covered(f.strides[3], index[3], ceil_div(a.keys, int64_t(kOthers)));
  for (int64_t b = batches.begin; b < batches.end; ++b)
    for (int64_t h = heads.begin; h < heads.end; ++h)
      for (int64_t q = q_tiles.begin; q < q_tiles.end; ++q)
        for (int64_t k = k_tiles.begin; k < k_tiles.end; ++k) {
          const Place at{b, h, q * kOthers, k * kOthers};
          const Span queries{at.i0, min(a.queries, at.i0 + kOthers)};
          const Span keys{at.j0, min(a.keys, at.j0 + kOthers)};
          if (meeting_of(f.p, b, queries, keys) == Meeting::none) continue;
          tile_products<T, Owned::queries, true>(f, at, area, w, w2);
          __syncthreads();
          // The mask is added behind the softcap, so its gradient does not go through that.
          apply_rules<Owned::queries, Becomes::gradients_after_cap>(f, at, w, w2);
          __syncthreads();
          for (int n = int(threadIdx.x); n < kOthers * kOthers; n += kThreads) {
            const int place = n / kOthers * Layout<8>::stride + n % kOthers;
            sums[place] += w[place];
          }
        }
  write_sums(f, index, sums);
}

/// In f64, as P may be the exponential of a difference of large numbers.
__global__ void sink_of_head(const __grid_constant__ Problem p, const float* max,
                             const float* log_sum, const float* delta, float* dsink,
                             bool accumulate) {
  const Attention& a = p.a;
  const int64_t h = blockIdx.x;
  const double sink = double(in<float>(a.sink)[h]);
  double sum = 0;
  // An infinite sink takes nothing, or everything: then outputs, and with them delta, are 0.
  const bool finite = !(fabs(sink) > 3.4028234663852886e38);  // or NaN
  for (int64_t n = threadIdx.x; finite && n < a.batch * a.queries; n += blockDim.x) {
    const int64_t row = (n / a.queries * a.heads + h) * a.queries + n % a.queries;
    const double above = sink - double(max[row]) * p.unit;
    const double exponent = above - double(log_sum[row]);
    // More than 1 is the maximum's rounding.
    sum -= (exponent > 1 ? 1.0 : exp(exponent)) * double(delta[row]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dsink[h] = float(sum) + (accumulate ? dsink[h] : 0.0f);
}

}  // namespace

void mask_gradient(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats) {
  const Attention& a = p.a;
  MaskCall call{{.p = p, .q = f.q, .k = f.k, .v = f.v, .dy = f.dy, .stats = stats}};
  call.dmask = out<float>(f.dmask);
  const int64_t all[4] = {a.batch, a.heads, ceil_div(a.queries, int64_t(kOthers)),
                          ceil_div(a.keys, int64_t(kOthers))};
  int64_t tiles = 1;
  for (int d = 0; d < 4; ++d) {
    call.strides[d] = f.dmask_strides[d];
    call.sizes[d] = call.strides[d] ? all[d] : 1;
    tiles *= call.sizes[d];
  }
  const size_t shared = Layout<8>::bytes(false, 3);
  visit_cuda_float(a.dtype, [&]<class T>() {
    launch(mask_tile<T>, {.grid = tiles, .block = kThreads, .shared = shared, .stream = f.stream},
           call);
  });
}

void sink_gradient(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats) {
  launch(sink_of_head, {.grid = p.a.heads, .block = 256, .stream = f.stream}, p,
         in<float>(f.row_max), in<float>(f.row_log_sum), stats.delta, out<float>(f.dsink),
         f.accumulate_dsink);
}

}  // namespace olm::kernels::cuda_attention
