// Radix sort, 8 bits at a time: tiles of kTile keys are counted by digit, one block scans the
// counts [digit, tile], and each tile puts its keys where the scan says, in their order. In a tile
// each warp owns a run of keys and ranks 32 at a time by matching digits. Traffic of a pass: keys
// read twice, values once, both written once.
#include <olm/kernels/cuda/index/sort.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels {
namespace {

constexpr int kBits = 8, kDigits = 1 << kBits, kBlock = 128, kWarps = kBlock / kWarp;
constexpr int kRounds = 8, kTile = kBlock * kRounds;

__device__ inline int digit_of(uint32_t key, int shift) {
  return int(key >> shift & (kDigits - 1));
}

__global__ void __launch_bounds__(kBlock)
    count_digits(const uint32_t* keys, uint32_t* counts, int64_t n, int shift) {
  auto* mine = shared<uint32_t>();
  for (int d = int(threadIdx.x); d < kDigits; d += kBlock) mine[d] = 0;
  __syncthreads();
  const int64_t begin = int64_t(blockIdx.x) * kTile, end = begin + kTile < n ? begin + kTile : n;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock)
    atomicAdd(mine + digit_of(keys[i], shift), 1u);
  __syncthreads();
  for (int d = int(threadIdx.x); d < kDigits; d += kBlock)
    counts[int64_t(d) * gridDim.x + blockIdx.x] = mine[d];
}

/// counts[i] becomes the sum of those before it. One block; a thread has four neighbours at a time.
__global__ void __launch_bounds__(1024) scan_counts(uint32_t* counts, int64_t n) {
  uint32_t before = 0;
  for (int64_t begin = 0; begin < n; begin += 4 * blockDim.x) {
    const int64_t first = begin + 4 * threadIdx.x;
    uint32_t v[4], sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      v[j] = first + j < n ? counts[first + j] : 0;
      sum += v[j];
    }
    uint32_t total;
    uint32_t running = before + block_sum_before(sum, total);
    before += total;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j < n) counts[first + j] = running;
      running += v[j];
    }
  }
}

struct PlacePass {
  const uint32_t *keys, *values, *starts;
  uint32_t *sorted_keys, *sorted_values;
  int64_t n;
  int shift;
};

__global__ void __launch_bounds__(kBlock) place(PlacePass k) {
  auto* next = shared<uint32_t>();  // [warp, digit]: how many so far, then where they begin
  for (int i = int(threadIdx.x); i < kWarps * kDigits; i += kBlock) next[i] = 0;
  __syncthreads();
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t first = int64_t(blockIdx.x) * kTile + warp * kRounds * kWarp + lane;
  uint32_t* mine = next + warp * kDigits;
  uint32_t key[kRounds], rank[kRounds];
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const bool is_there = first + i * kWarp < k.n;
    key[i] = is_there ? k.keys[first + i * kWarp] : 0;
    const int digit = digit_of(key[i], k.shift);
    const unsigned same = __match_any_sync(kAllLanes, is_there ? digit : kDigits);
    const int before = __popc(same & ((1u << lane) - 1));
    if (is_there) rank[i] = mine[digit] + uint32_t(before);
    __syncwarp();
    if (is_there && before == 0) mine[digit] += uint32_t(__popc(same));
    __syncwarp();
  }
  __syncthreads();
  for (int d = int(threadIdx.x); d < kDigits; d += kBlock) {
    uint32_t at = k.starts[int64_t(d) * gridDim.x + blockIdx.x];
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t count = next[w * kDigits + d];
      next[w * kDigits + d] = at;
      at += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (first + i * kWarp >= k.n) continue;
    const uint32_t to = mine[digit_of(key[i], k.shift)] + rank[i];
    k.sorted_keys[to] = key[i];
    k.sorted_values[to] = k.values[first + i * kWarp];
  }
}

}  // namespace

int sort_pairs(uint32_t* (&keys)[2], uint32_t* (&values)[2], int64_t n, uint64_t bound,
               const Stream& stream) {
  const int64_t tiles = ceil_div(n, kTile), size = tiles * kDigits;
  const auto counts = stream.scratch<uint32_t>(size_t(size));
  int now = 0;
  for (int shift = 0; shift < 32 && (bound - 1) >> shift != 0; shift += kBits) {
    launch(count_digits,
           {.grid = tiles, .block = kBlock, .shared = kDigits * sizeof(uint32_t), .stream = stream},
           keys[now], counts.get(), n, shift);
    launch(scan_counts, {.grid = 1, .block = row_block(size), .stream = stream}, counts.get(),
           size);
    launch(place,
           {.grid = tiles,
            .block = kBlock,
            .shared = kWarps * kDigits * sizeof(uint32_t),
            .stream = stream},
           PlacePass{.keys = keys[now],
                     .values = values[now],
                     .starts = counts.get(),
                     .sorted_keys = keys[1 - now],
                     .sorted_values = values[1 - now],
                     .n = n,
                     .shift = shift});
    now = 1 - now;
  }
  return now;
}

}  // namespace olm::kernels
