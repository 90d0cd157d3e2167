// Running sums. Where many lines lie side by side, a thread goes along a line, and neighbours read
// neighbours. Else a block goes along a line in pieces: each thread sums kPerThread elements, the
// threads' sums are scanned, and what came before the piece is carried on. Traffic: x once, y once.
#include <olm/kernels/scan.h>
#include <olm/kernels/cuda/packet.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kMaxThreads = 256;
constexpr int kPerThread = 4;
constexpr int64_t kMinLines = 4096;  // from which a thread for each gives enough threads

/// Elements as what they are summed in: floats, or integers, which wrap.
template <class Sum>
__device__ inline Sum load_term(const void* x, DType t, int64_t i) {
  if constexpr (std::is_same_v<Sum, float>)
    return load_float(x, t, i);
  else
    return in<uint64_t>(x)[i];
}
template <class Sum>
__device__ inline void store_sum(void* y, DType t, int64_t i, Sum sum) {
  if constexpr (std::is_same_v<Sum, float>)
    store_float(y, t, i, sum);
  else
    out<uint64_t>(y)[i] = sum;
}

/// A line of `size` elements `step` apart, of which the first lies at `start`.
struct Line {
  int64_t start, step;
};
__device__ inline Line line_of(int64_t line, int64_t size, int64_t inner, bool reverse) {
  const int64_t first = line / inner * size * inner + line % inner;
  return reverse ? Line{first + (size - 1) * inner, -inner} : Line{first, inner};
}

template <class Sum>
__global__ void scan_by_thread(const void* x, void* y, DType t, int64_t lines, int64_t size,
                               int64_t inner, bool reverse) {
  for (int64_t l = global_thread(); l < lines; l += global_threads()) {
    const Line line = line_of(l, size, inner, reverse);
    Sum sum = 0;
    for (int64_t first = 0; first < size; first += kPerThread) {
      Sum terms[kPerThread];
#pragma unroll
      for (int j = 0; j < kPerThread; ++j)
        terms[j] =
            first + j < size ? load_term<Sum>(x, t, line.start + (first + j) * line.step) : Sum(0);
#pragma unroll
      for (int j = 0; j < kPerThread; ++j)
        if (first + j < size)
          store_sum(y, t, line.start + (first + j) * line.step, sum += terms[j]);
    }
  }
}

template <class Sum>
__global__ void scan_by_block(const void* x, void* y, DType t, int64_t size, int64_t inner,
                              bool reverse) {
  const Line line = line_of(int64_t(blockIdx.x), size, inner, reverse);
  const int64_t piece = int64_t(blockDim.x) * kPerThread;
  Sum carried = 0;
  for (int64_t begin = 0; begin < size; begin += piece) {
    const int64_t first = begin + int64_t(threadIdx.x) * kPerThread;
    Sum sums[kPerThread], sum = 0, total;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      sums[j] = first + j < size ? load_term<Sum>(x, t, line.start + (first + j) * line.step) : 0;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) sums[j] = sum += sums[j];
    const Sum before = carried + block_sum_before(sum, total);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (first + j < size) store_sum(y, t, line.start + (first + j) * line.step, before + sums[j]);
    carried += total;
  }
}

template <class Sum>
void scan(const Cumsum& k) {
  const int64_t lines = k.outer * k.inner;
  if (k.inner > 1 && lines >= kMinLines)
    return launch(scan_by_thread<Sum>, grid_over(lines, k.stream), k.x, k.y, k.dtype, lines, k.size,
                  k.inner, k.reverse);
  launch(scan_by_block<Sum>,
         {.grid = lines,
          .block = std::min(kMaxThreads, row_block(k.size, kPerThread)),
          .stream = k.stream},
         k.x, k.y, k.dtype, k.size, k.inner, k.reverse);
}

}  // namespace

void run(Cuda, const Cumsum& k) {
  if (k.outer * k.size * k.inner == 0) return;
  if (k.dtype == i64) return scan<uint64_t>(k);
  require_packet_dtype("cumsum", k.dtype);
  scan<float>(k);
}

}  // namespace olm::kernels
