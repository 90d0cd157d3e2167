// Elements become unsigned keys of the same order, paired with their index: all pairs differ, so
// any sort is stable. A block sorts a tile of a row in shared memory (bitonic, Batcher 1968). Of
// tiles of a long row the first `count` items go to scratch, and pairs of runs are merged until one
// is left: each item finds its place by binary search in the other run. Traffic: x once, and per
// merge the items read and written once.
#include <olm/kernels/sort.h>
#include <olm/kernels/cuda/packet.cuh>

#include <algorithm>
#include <bit>

namespace olm::kernels {
namespace {

constexpr int64_t kTileBytes = 32768;
constexpr int64_t kMaxThreads = 512;
constexpr int64_t kScratchBytes = int64_t(256)
                                  << 20;  // for items of long rows, unless one is longer

struct Wide {
  uint64_t key, index;
  friend __device__ bool operator<(const Wide& a, const Wide& b) {
    return a.key != b.key ? a.key < b.key : a.index < b.index;
  }
};
__device__ inline int64_t index_of(const Wide& item) { return int64_t(item.index); }
__device__ inline int64_t index_of(uint64_t item) { return int64_t(item & 0xffffffffu); }

/// A float's bits as an unsigned number of the same order; NaN is the largest, -0 becomes 0.
__device__ inline uint32_t float_key(float v) {
  if (v != v) return ~0u;
  const uint32_t bits = std::bit_cast<uint32_t>(v + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// 64-bit keys.
__device__ inline void make_item(Wide& item, const void* x, DType, int64_t i, uint32_t index,
                                 bool descending) {
  const uint64_t key = in<uint64_t>(x)[i] ^ (uint64_t(1) << 63);
  item = {descending ? ~key : key, index};
}
/// 32-bit keys share a word with their index.
__device__ inline void make_item(uint64_t& item, const void* x, DType t, int64_t i, uint32_t index,
                                 bool descending) {
  uint32_t key;
  if (t == i32)
    key = in<uint32_t>(x)[i] ^ 0x80000000u;
  else if (t == boolean)
    key = in<bool>(x)[i];
  else
    key = float_key(load_float(x, t, i));
  item = uint64_t(descending ? ~key : key) << 32 | index;
}
/// Comes after all items.
__device__ inline void make_last(Wide& item) { item = {~uint64_t(0), ~uint64_t(0)}; }
__device__ inline void make_last(uint64_t& item) { item = ~uint64_t(0); }

/// Where a row's sorted elements go: either may be null.
struct Result {
  const void* x;
  void* values;
  int64_t* indices;
  int64_t cols, count;
  DType dtype;
};
__device__ inline void deliver(const Result& to, int64_t row, int64_t c, int64_t from) {
  const int64_t i = row * to.count + c, source = row * to.cols + from;
  if (to.indices) to.indices[i] = from;
  if (!to.values) return;
  if (to.dtype == i64)
    out<uint64_t>(to.values)[i] = in<uint64_t>(to.x)[source];
  else if (to.dtype == f32 || to.dtype == i32)
    out<uint32_t>(to.values)[i] = in<uint32_t>(to.x)[source];
  else if (to.dtype == boolean)
    out<bool>(to.values)[i] = in<bool>(to.x)[source];
  else
    out<uint16_t>(to.values)[i] = in<uint16_t>(to.x)[source];
}

/// Sorts `size` items, a power of two, in shared memory.
template <class Item>
__device__ inline void sort_shared(Item* items, int size) {
  for (int width = 2; width <= size; width *= 2)
    for (int distance = width / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int p = int(threadIdx.x); p < size / 2; p += int(blockDim.x)) {
        const int a = 2 * p - (p & (distance - 1)), b = a + distance;
        const Item low = items[a], high = items[b];
        const bool rising = (a & width) == 0;
        if (rising == (high < low)) {
          items[a] = high;
          items[b] = low;
        }
      }
    }
  __syncthreads();
}

/// Block (row, tile): the first `keep` items of a tile of `tile` columns, to `runs`, or where a row
/// is one tile to the result. `size`: the power of two from `tile`.
template <class Item>
__global__ void sort_tiles(Result to, int64_t first_row, int tile, int size, int64_t tiles,
                           int keep, bool descending, Item* runs) {
  Item* items = shared<Item>();
  const int64_t row = first_row + int64_t(blockIdx.x) / tiles;
  const int64_t begin = int64_t(blockIdx.x) % tiles * tile;
  for (int j = int(threadIdx.x); j < size; j += int(blockDim.x)) {
    const int64_t c = begin + j;
    if (j < tile && c < to.cols)
      make_item(items[j], to.x, to.dtype, row * to.cols + c, uint32_t(c), descending);
    else
      make_last(items[j]);
  }
  sort_shared(items, size);
  for (int j = int(threadIdx.x); j < keep; j += int(blockDim.x)) {
    if (runs)
      runs[int64_t(blockIdx.x) * keep + j] = items[j];
    else
      deliver(to, row, j, index_of(items[j]));
  }
}

/// How many items of a sorted run come before `item`.
template <class Item>
__device__ inline int64_t rank_in(const Item* run, int64_t n, const Item& item) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (run[middle] < item)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Rows as sorted runs, `length` items apart. Each comes from `span` columns.
struct Runs {
  int64_t cols, count, length, span;
  __host__ __device__ int64_t size(int64_t run) const {
    return std::min(length, std::min(span, cols - run * span));
  }
};

/// Merges runs two by two and keeps the first `next_length` items of both.
template <class Item>
__global__ void merge_runs(const Item* from, Item* to, int64_t rows, Runs runs,
                           int64_t next_length) {
  const int64_t n = rows * runs.count * runs.length, pairs = ceil_div(runs.count, 2);
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const int64_t row = i / runs.length / runs.count, run = i / runs.length % runs.count;
    int64_t place = i % runs.length;
    if (place >= runs.size(run)) continue;
    const Item item = from[i];
    if (const int64_t other = run ^ 1; other < runs.count)
      place += rank_in(from + (row * runs.count + other) * runs.length, runs.size(other), item);
    if (place < next_length) to[(row * pairs + run / 2) * next_length + place] = item;
  }
}

/// The first `count` items of each row's run to the result.
template <class Item>
__global__ void deliver_runs(Result to, int64_t first_row, int64_t rows, const Item* items,
                             int64_t length) {
  for (int64_t i = global_thread(); i < rows * to.count; i += global_threads()) {
    const int64_t row = i / to.count, c = i % to.count;
    deliver(to, first_row + row, c, index_of(items[row * length + c]));
  }
}

/// What every launch needs.
struct Plan {
  Result to;
  int64_t tile, size, tiles, keep;
  bool descending;
  Stream stream;
};

template <class Item>
void launch_tiles(const Plan& p, int64_t first_row, int64_t rows, Item* runs) {
  launch(sort_tiles<Item>,
         {.grid = rows * p.tiles,
          .block = std::clamp<int64_t>(round_up(p.size / 2, 32), 32, kMaxThreads),
          .shared = size_t(p.size) * sizeof(Item),
          .stream = p.stream},
         p.to, first_row, int(p.tile), int(p.size), p.tiles, int(p.keep), p.descending, runs);
}

/// Rows of several tiles; each scratch has room for a power of two of runs.
template <class Item>
void sort_long_rows(const Plan& p, int64_t first_row, int64_t rows, Item* from, Item* to) {
  launch_tiles(p, first_row, rows, from);
  Runs runs{p.to.cols, p.tiles, p.keep, p.tile};
  while (runs.count > 1) {
    const int64_t next_length = std::min(2 * runs.length, p.to.count);
    const int64_t n = rows * runs.count * runs.length;
    launch(merge_runs<Item>, grid_over(n, p.stream), from, to, rows, runs, next_length);
    std::swap(from, to);
    runs = {runs.cols, ceil_div(runs.count, 2), next_length, 2 * runs.span};
  }
  const int64_t n = rows * p.to.count;
  launch(deliver_runs<Item>, grid_over(n, p.stream), p.to, first_row, rows, from, runs.length);
}

template <class Item>
void sort(const Sort& k) {
  const int64_t tile = std::min<int64_t>(k.cols, kTileBytes / int64_t(sizeof(Item)));
  const Plan p{{k.x, k.values, out<int64_t>(k.indices), k.cols, k.count, k.dtype},
               tile,
               int64_t(std::bit_ceil(uint64_t(tile))),
               ceil_div(k.cols, tile),
               std::min(tile, k.count),
               k.descending,
               k.stream};
  if (p.tiles == 1) return launch_tiles<Item>(p, 0, k.rows, nullptr);
  const int64_t of_row = int64_t(std::bit_ceil(uint64_t(p.tiles))) * p.keep;
  const int64_t at_once =
      std::clamp<int64_t>(kScratchBytes / (of_row * int64_t(sizeof(Item))), 1, k.rows);
  const Scratch<Item> from = k.stream.scratch<Item>(size_t(at_once * of_row));
  const Scratch<Item> to = k.stream.scratch<Item>(size_t(at_once * of_row));
  for (int64_t r = 0; r < k.rows; r += at_once)
    sort_long_rows<Item>(p, r, std::min(at_once, k.rows - r), from, to);
}

}  // namespace

void run(Cuda, const Sort& k) {
  require(k.count >= 0 && k.count <= k.cols, "sort: wanted ", k.count, " of ", k.cols, " elements");
  require(k.cols < (int64_t(1) << 32), "sort: a row of ", k.cols, " elements is too long");
  require(k.dtype != f64, "sort: cuda has no f64");
  if (k.count == 0 || k.rows == 0) return;
  if (k.dtype == i64) return sort<Wide>(k);
  sort<uint64_t>(k);
}

}  // namespace olm::kernels
