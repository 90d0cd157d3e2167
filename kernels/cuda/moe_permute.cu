// A stable counting sort of pairs by expert: a warp counts the experts of a chunk of pairs, one
// block scans the counts by expert and chunk, and the warps give each pair of their chunk its
// place, 32 pairs at a time: before a pair come those of its expert in earlier rounds and in lower
// lanes. No atomics, so that places depend on the pairs alone. MoEPermute: a warp copies a row, 16
// bytes a lane; each row of x comes from memory once and top_k - 1 times from L2.
#include <olm/kernels/moe_permute.h>
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/reduce.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kChunk = 512;  // pairs of a warp
constexpr int kScanBlock = 1024;

/// Adds 1 to next[expert] for each lane with an expert, and returns how many were there before the
/// lane's; the lanes count in order. `expert` -1: none.
__device__ inline int32_t count_up(int expert, int32_t* next) {
  const unsigned peers = __match_any_sync(kAllLanes, expert);
  const unsigned lower = (1u << threadIdx.x % kWarp) - 1;
  const int32_t before = expert >= 0 ? next[expert] : 0;
  __syncwarp();
  if (expert >= 0 && (peers & lower) == 0) next[expert] = before + __popc(peers);
  __syncwarp();
  return before + __popc(peers & lower);
}

/// The expert of pair i; -1 past the end and where it is none, which is reported.
template <class Id>
__device__ inline int expert_at(const Id* experts, int64_t i, int64_t pairs, int num_experts,
                                const Faults& faults) {
  if (i >= pairs) return -1;
  const auto e = int64_t(experts[i]);
  return faults.check(e, i, num_experts) ? int(e) : -1;
}

/// counts: [experts, chunks]. A block of one warp takes a chunk.
template <class Id>
__global__ void count_experts(const Id* experts, int64_t pairs, int num_experts, int32_t* counts,
                              Faults faults) {
  auto* own = shared<int32_t>();
  for (int e = int(threadIdx.x); e < num_experts; e += kWarp) own[e] = 0;
  __syncwarp();
  const int64_t begin = int64_t(blockIdx.x) * kChunk;
  for (int64_t i = begin; i < begin + kChunk && i < pairs; i += kWarp)
    count_up(expert_at(experts, i + threadIdx.x, pairs, num_experts, faults), own);
  for (int e = int(threadIdx.x); e < num_experts; e += kWarp)
    counts[int64_t(e) * gridDim.x + blockIdx.x] = own[e];
}

/// Turns counts into places, in one block; a thread takes kPerThread neighbours. rows from the
/// number of good pairs on become -1.
__global__ void __launch_bounds__(kScanBlock, 1)
    scan_counts(int32_t* counts, int32_t* offsets, int32_t* rows, int64_t pairs,
                int64_t num_experts, int64_t chunks) {
  constexpr int kPerThread = 8;
  const int t = int(threadIdx.x);
  const int64_t n = num_experts * chunks;
  int32_t next = 0;
  for (int64_t base = 0; base < n; base += kScanBlock * kPerThread) {
    const int64_t begin = base + t * kPerThread;
    int32_t sum = 0;
    for (int64_t i = begin; i < begin + kPerThread && i < n; ++i) sum += counts[i];
    int32_t total;
    int32_t place = next + block_sum_before(sum, total);
    for (int64_t i = begin; i < begin + kPerThread && i < n; ++i) {
      const int32_t count = counts[i];
      counts[i] = place;
      if (i % chunks == 0) offsets[i / chunks] = place;
      place += count;
    }
    next += total;
  }
  if (t == 0) offsets[num_experts] = next;
  for (int64_t i = next + t; i < pairs; i += kScanBlock) rows[i] = -1;
}

/// places: as counts. A block of one warp takes a chunk.
template <class Id>
__global__ void place_pairs(const Id* experts, int64_t pairs, int num_experts,
                            const int32_t* places, int32_t* rows, int32_t* positions,
                            Faults faults) {
  auto* next = shared<int32_t>();
  for (int e = int(threadIdx.x); e < num_experts; e += kWarp)
    next[e] = places[int64_t(e) * gridDim.x + blockIdx.x];
  __syncwarp();
  const int64_t begin = int64_t(blockIdx.x) * kChunk;
  for (int64_t first = begin; first < begin + kChunk && first < pairs; first += kWarp) {
    const int64_t i = first + threadIdx.x;
    const int expert = expert_at(experts, i, pairs, num_experts, faults);
    const int32_t place = count_up(expert, next);
    if (expert >= 0) rows[place] = int32_t(i);
    if (i < pairs) positions[i] = expert >= 0 ? place : -1;
  }
}

/// y[i] = x[rows[i] / top_k]: rows of `words` Words. A warp takes a row.
template <class Word>
__global__ void permute_rows(const Word* x, const int32_t* rows, Word* y, int64_t pairs,
                             int64_t top_k, int64_t words, Faults faults) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t warps = global_threads() / kWarp;
  for (int64_t i = global_thread() / kWarp; i < pairs; i += warps) {
    const int64_t pair = rows[i];
    if (uint64_t(pair) >= uint64_t(pairs)) {
      if (lane == 0) faults.report(pair, i, pairs);
      continue;
    }
    const Word* from = x + pair / top_k * words;
    for (int64_t w = lane; w < words; w += kWarp) y[i * words + w] = from[w];
  }
}

template <class Id>
void sort_pairs(const MoESort& k) {
  const int64_t chunks = std::max<int64_t>(ceil_div(k.pairs, kChunk), 1);
  const auto counts = k.stream.scratch<int32_t>(size_t(k.num_experts * chunks));
  const Launch chunk_each{.grid = chunks,
                          .block = kWarp,
                          .shared = size_t(k.num_experts) * sizeof(int32_t),
                          .stream = k.stream};
  const Id* experts = in<Id>(k.experts);
  const int num_experts = int(k.num_experts);
  launch(count_experts<Id>, chunk_each, experts, k.pairs, num_experts, counts.get(),
         Faults(k.name, k.stream));
  launch(scan_counts, {.grid = 1, .block = kScanBlock, .stream = k.stream}, counts.get(), k.offsets,
         k.rows, k.pairs, k.num_experts, chunks);
  launch(place_pairs<Id>, chunk_each, experts, k.pairs, num_experts,
         static_cast<const int32_t*>(counts.get()), k.rows, k.positions, Faults(k.name, k.stream));
}

template <class Word>
void permute_by(const MoEPermute& k, int64_t bytes) {
  launch(permute_rows<Word>,
         {.grid = blocks_for(k.pairs, 8, 65536), .block = 8 * kWarp, .stream = k.stream},
         in<Word>(k.x), k.rows, out<Word>(k.y), k.pairs, k.top_k, bytes / int64_t(sizeof(Word)),
         Faults(k.name, k.stream));
}

}  // namespace

void run(Cuda, const MoESort& k) {
  require(k.pairs <= INT32_MAX, "moe_sort: ", k.pairs, " pairs do not fit i32");
  require(size_t(k.num_experts) * sizeof(int32_t) <= kMaxShared, "moe_sort: cuda has no room for ",
          k.num_experts, " experts");
  visit_index(k.index_dtype, [&]<class Id>() { sort_pairs<Id>(k); });
}

void run(Cuda, const MoEPermute& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    const int64_t bytes = k.cols * int64_t(sizeof(T));
    if (is_vectorizable<T>(k.cols, k.x, k.y))
      permute_by<Vec<uint32_t, 4>>(k, bytes);
    else
      permute_by<T>(k, bytes);
  });
}

}  // namespace olm::kernels
