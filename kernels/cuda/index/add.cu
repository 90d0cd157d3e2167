// Additions by index, without atomics: (destination, source) pairs are sorted stably by
// destination, and each run of equal destinations is summed in the order of its sources, so that
// bits depend on the indices alone. The sorted list is cut into chunks of kChunk; a thread owns
// some columns of a chunk, and a run that goes past a chunk leaves partial sums, which a second
// kernel joins in order: the time does not depend on how often an index repeats. Traffic beside the
// sort: src read once, rows of y that are met read (where added to) and written once, two partial
// sums for each chunk. Threads go on over the grid.
#include <olm/kernels/index.h>
#include <olm/kernels/cuda/index/indices.cuh>
#include <olm/kernels/cuda/index/sort.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kMaxPairs = (int64_t(1) << 31) - 1;
constexpr int kChunk = 32, kAhead = 4;
constexpr uint32_t kSkipped = 0xffffffffu;  // the source of a pair whose index is bad

Launch threads_launch(int64_t n, const Stream& stream) { return grid_over(n, stream, 1 << 16); }

/// [outer, count, inner] added to [outer, size, inner] along the middle.
template <class T>
struct AddRows {
  float* y;
  const T* src;
  int64_t outer, size, count, inner;
  bool accumulate;
};

/// Pairs (key, source) in the order of keys: y's row `key` receives row `source`.
struct SortedPairs {
  const uint32_t *keys, *sources;
  int64_t n, chunks;
  /// True where the run of pair i began in an earlier chunk than that which begins at `begin`.
  __device__ bool began_before(int64_t begin, uint32_t key) const {
    return begin > 0 && keys[begin] == key && keys[begin - 1] == key;
  }
};

/// A thread's share: N columns from `col` on, of chunk `chunk` of outer index `outer`.
struct Share {
  int64_t outer, chunk, col;
};
template <int N>
__device__ inline Share share_of(int64_t i, int64_t inner, int64_t chunks) {
  const Division by_column = divide(i, inner / N), by_chunk = divide(by_column.quotient, chunks);
  return {by_chunk.quotient, by_chunk.remainder, by_column.remainder * N};
}

template <class T, int N>
__device__ inline void add_to_row(const AddRows<T>& k, const Share& at, uint32_t key,
                                  float (&sum)[N]) {
  float* y = k.y + (at.outer * k.size + key) * k.inner + at.col;
  if (k.accumulate) {
    float before[N];
    load_floats(before, y);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += before[j];
  }
  store_floats(y, sum);
}

/// Where a chunk's partial sums lie: that of the run it begins with, or that it ends with.
template <class T>
__device__ inline float* part_of(float* parts, const AddRows<T>& k, const Share& at, int64_t chunk,
                                 int64_t chunks, int ends) {
  return parts + ((at.outer * chunks + chunk) * 2 + ends) * k.inner + at.col;
}

template <class T, int N>
__global__ void __launch_bounds__(kGridBlock, 1)
    sum_chunks(AddRows<T> k, SortedPairs pairs, float* parts) {
  const int64_t total = k.outer * pairs.chunks * (k.inner / N);
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const Share at = share_of<N>(i, k.inner, pairs.chunks);
    const int64_t begin = at.chunk * kChunk;
    const int64_t end = begin + kChunk < pairs.n ? begin + kChunk : pairs.n;
    const T* src = k.src + at.outer * k.count * k.inner + at.col;
    bool began_before = pairs.began_before(begin, pairs.keys[begin]);
    float sum[N] = {};
    for (int64_t p = begin; p < end; p += kAhead) {
      Packed<T, N> rows[kAhead] = {};
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const uint32_t source = p + a < end ? pairs.sources[p + a] : kSkipped;
        if (source != kSkipped) rows[a].load(src + int64_t(source) * k.inner);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64_t next = p + a + 1;
        if (next > end) continue;
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += rows[a][j];
        const uint32_t key = pairs.keys[next - 1];
        const bool goes_on = next < pairs.n && pairs.keys[next] == key;
        if (goes_on && next < end) continue;
        if (began_before || goes_on)
          store_floats(part_of(parts, k, at, at.chunk, pairs.chunks, began_before ? 0 : 1), sum);
        else
          add_to_row(k, at, key, sum);
        began_before = false;
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] = 0;
      }
    }
  }
}

/// The first chunk after `chunk` that does not begin with `key`.
__device__ inline int64_t end_of_run(const SortedPairs& pairs, int64_t chunk, uint32_t key) {
  int64_t low = chunk + 1, high = pairs.chunks;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (pairs.keys[middle * kChunk] == key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Sums the parts of each run that goes past a chunk, by the chunk in which it began.
template <class T, int N>
__global__ void __launch_bounds__(kGridBlock)
    join_parts(AddRows<T> k, SortedPairs pairs, float* parts) {
  const int64_t total = k.outer * pairs.chunks * (k.inner / N);
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const Share at = share_of<N>(i, k.inner, pairs.chunks);
    const int64_t begin = at.chunk * kChunk, end = begin + kChunk;
    if (end >= pairs.n) continue;
    const uint32_t key = pairs.keys[end - 1];
    if (pairs.keys[end] != key || pairs.began_before(begin, key)) continue;
    float sum[N];
    load_floats(sum, part_of(parts, k, at, at.chunk, pairs.chunks, 1));
    const int64_t last = end_of_run(pairs, at.chunk, key);
    for (int64_t c = at.chunk + 1; c < last; c += kAhead) {
      float more[kAhead][N] = {};
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (c + a < last) load_floats(more[a], part_of(parts, k, at, c + a, pairs.chunks, 0));
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += more[a][j];
    }
    add_to_row(k, at, key, sum);
  }
}

/// Pair j: where indices put row j, or a pair that is skipped.
__global__ void __launch_bounds__(kGridBlock)
    make_index_pairs(uint32_t* keys, uint32_t* sources, Indices index, int64_t n, int64_t size,
                     Faults faults) {
  for (int64_t j = global_thread(); j < n; j += global_threads()) {
    const int64_t id = index[j];
    const bool good = faults.check(id, j, size);
    keys[j] = good ? uint32_t(id) : 0;
    sources[j] = good ? uint32_t(j) : kSkipped;
  }
}

/// What scatter_add does with its single elements.
struct Elements {
  Indices index;
  int64_t outer, size, count, inner;
  Faults faults;
  /// Where element i of src goes, or -1; `column` is (outer, inner) of it.
  __device__ int64_t destination(int64_t i, const Division& outer_and_inner) const {
    const int64_t id = index[i];
    if (!faults.check(id, i, size)) return -1;
    return (outer_and_inner.quotient * size + id) * inner + outer_and_inner.remainder;
  }
};

__global__ void __launch_bounds__(kGridBlock)
    make_element_pairs(uint32_t* keys, uint32_t* sources, Elements k) {
  const int64_t n = k.outer * k.count * k.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const Division by_row = divide(i, k.inner), by_outer = divide(by_row.quotient, k.count);
    const int64_t to = k.destination(i, {by_outer.quotient, by_row.remainder});
    keys[i] = to < 0 ? 0 : uint32_t(to);
    sources[i] = to < 0 ? kSkipped : uint32_t(i);
  }
}

/// A thread owns a column of an outer index, and adds to it in the order of j.
template <class T>
__global__ void __launch_bounds__(kGridBlock) add_columns(float* y, const T* src, Elements k) {
  for (int64_t c = global_thread(); c < k.outer * k.inner; c += global_threads()) {
    const Division at = divide(c, k.inner);
    for (int64_t j = 0; j < k.count; ++j) {
      const int64_t i = (at.quotient * k.count + j) * k.inner + at.remainder;
      const int64_t to = k.destination(i, at);
      if (to >= 0) y[to] += to_float(src[i]);
    }
  }
}

/// Lets make(keys, sources) write n pairs with keys below `bound`, sorts them, and sums.
template <class T, class Make>
void add_sorted(const AddRows<T>& rows, int64_t n, int64_t bound, const Stream& stream,
                Make&& make) {
  const auto keys0 = stream.scratch<uint32_t>(size_t(n)),
             keys1 = stream.scratch<uint32_t>(size_t(n));
  const auto sources0 = stream.scratch<uint32_t>(size_t(n));
  const auto sources1 = stream.scratch<uint32_t>(size_t(n));
  uint32_t* keys[2] = {keys0, keys1};
  uint32_t* sources[2] = {sources0, sources1};
  make(keys[0], sources[0]);
  if (n == 0 || rows.outer * rows.inner * bound == 0) return;
  const int at = sort_pairs(keys, sources, n, uint64_t(bound), stream);
  const SortedPairs pairs{keys[at], sources[at], n, ceil_div(n, kChunk)};
  const auto parts = stream.scratch<float>(size_t(rows.outer * pairs.chunks * 2 * rows.inner));
  const auto sum = [&]<int N>() {
    const Launch shape = threads_launch(rows.outer * pairs.chunks * (rows.inner / N), stream);
    launch(sum_chunks<T, N>, shape, rows, pairs, parts.get());
    launch(join_parts<T, N>, shape, rows, pairs, parts.get());
  };
  if (is_vectorizable<T>(rows.inner, rows.src, rows.y))
    sum.template operator()<kVec<T>>();
  else
    sum.template operator()<1>();
}

}  // namespace

void run(Cuda, const IndexAdd& k) {
  require(k.count <= kMaxPairs && k.size <= kMaxPairs, k.name, ": cuda has no more than ",
          kMaxPairs, " rows, got ", k.count, " to add to ", k.size);
  visit_cuda_float(k.dtype, [&]<class T>() {
    const size_t bytes = size_t(k.outer * k.size * k.inner) * sizeof(float);
    if (!k.accumulate && bytes > 0)
      OLM_CUDA_CHECK(cudaMemsetAsync(k.y, 0, bytes, static_cast<cudaStream_t>(k.stream.native)));
    const AddRows<T> rows{.y = out<float>(k.y),
                          .src = in<T>(k.src),
                          .outer = k.outer,
                          .size = k.size,
                          .count = k.count,
                          .inner = k.inner,
                          .accumulate = k.accumulate};
    add_sorted(rows, k.count, k.size, k.stream, [&](uint32_t* keys, uint32_t* sources) {
      launch(make_index_pairs, threads_launch(k.count, k.stream), keys, sources,
             indices_of(k.index, k.index_dtype), k.count, k.size, Faults(k.name, k.stream));
    });
  });
}

void run(Cuda, const ScatterAdd& k) {
  const Elements elements{.index = indices_of(k.index, k.index_dtype),
                          .outer = k.outer,
                          .size = k.size,
                          .count = k.count,
                          .inner = k.inner,
                          .faults = {k.name, k.stream}};
  const int64_t n = k.outer * k.count * k.inner, places = k.outer * k.size * k.inner;
  // Columns alone keep a card busy where there are many, and are enough where each is short.
  constexpr int64_t kManyColumns = 4096, kShort = 32;
  const bool by_columns =
      k.outer * k.inner >= kManyColumns || k.count <= kShort || n > kMaxPairs || places > kMaxPairs;
  visit_cuda_float(k.dtype, [&]<class T>() {
    if (by_columns)
      return launch(add_columns<T>, threads_launch(k.outer * k.inner, k.stream), out<float>(k.y),
                    in<T>(k.src), elements);
    const AddRows<T> rows{.y = out<float>(k.y),
                          .src = in<T>(k.src),
                          .outer = 1,
                          .size = places,
                          .count = n,
                          .inner = 1,
                          .accumulate = true};
    add_sorted(rows, n, places, k.stream, [&](uint32_t* keys, uint32_t* sources) {
      launch(make_element_pairs, threads_launch(n, k.stream), keys, sources, elements);
    });
  });
}

}  // namespace olm::kernels
