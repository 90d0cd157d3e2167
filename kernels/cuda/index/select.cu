// Reads by index: rows (index_select), elements (gather), and rows of zeros with a one. A thread
// moves one unit, of up to 16 bytes where rows allow; threads go on over the grid. Each index, each
// chosen element and each result passes once through memory.
#include <cstring>

#include <olm/kernels/base/convert.h>
#include <olm/kernels/index.h>
#include <olm/kernels/cuda/index/indices.cuh>

namespace olm::kernels {
namespace {

Launch pieces_launch(int64_t pieces, const Stream& stream) {
  return grid_over(pieces, stream, 1 << 16);
}

/// What every index_select has: [outer, size, width] to [outer, count, width], in some unit.
struct SelectRows {
  Indices index;
  int64_t outer, size, count, width;
  Faults faults;
  /// Row of x that row r of y takes, or -1.
  __device__ int64_t source(int64_t r) const {
    const Division at = divide(r, count);
    const int64_t id = index[at.remainder];
    return faults.check(id, at.remainder, size) ? at.quotient * size + id : -1;
  }
};

template <class Unit>
__global__ void __launch_bounds__(kGridBlock) select_units(Unit* y, const Unit* x, SelectRows k) {
  const int64_t n = k.outer * k.count * k.width;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const Division at = divide(i, k.width);
    const int64_t from = k.source(at.quotient);
    if (from >= 0) y[i] = x[from * k.width + at.remainder];
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kGridBlock)
    select_converted(To* y, const From* x, SelectRows k, bool aligned) {
  constexpr int N = kVecBetween<From, To>;
  const int64_t pieces = ceil_div(k.width, N);
  for (int64_t i = global_thread(); i < k.outer * k.count * pieces; i += global_threads()) {
    const Division at = divide(i, pieces);
    const int64_t from = k.source(at.quotient), col = at.remainder * N, left = k.width - col;
    if (from < 0) continue;
    float v[N];
    load_floats(v, x + from * k.width + col, aligned, left);
    store_floats(y + at.quotient * k.width + col, v, aligned, left);
  }
}

/// Where nothing is moved the indices are still looked at.
__global__ void __launch_bounds__(kGridBlock) check_all(SelectRows k) {
  for (int64_t j = global_thread(); j < k.count; j += global_threads())
    k.faults.check(k.index[j], j, k.size);
}

template <class Word>
struct GatherElements {
  Word* y;
  const Word* x;
  Indices index;
  int64_t outer, size, count, inner;
  Faults faults;
};
template <class Word>
__global__ void __launch_bounds__(kGridBlock) gather(GatherElements<Word> k) {
  const int64_t n = k.outer * k.count * k.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const Division by_row = divide(i, k.inner), by_outer = divide(by_row.quotient, k.count);
    const int64_t id = k.index[i];
    if (!k.faults.check(id, i, k.size)) continue;
    k.y[i] = k.x[(by_outer.quotient * k.size + id) * k.inner + by_row.remainder];
  }
}

template <class Word>
__global__ void __launch_bounds__(kGridBlock)
    one_hot(Word* y, Indices index, int64_t count, int64_t size, Word one, Faults faults) {
  for (int64_t i = global_thread(); i < count * size; i += global_threads()) {
    const Division at = divide(i, size);
    const int64_t id = index[at.quotient];
    if (faults.check(id, at.quotient, size)) y[i] = id == at.remainder ? one : Word(0);
  }
}

/// Moves rows of `bytes` in the widest unit that divides them and that both pointers are aligned
/// to.
void select_bytes(const IndexSelect& k, SelectRows rows, int64_t bytes) {
  const auto offsets =
      uintptr_t(bytes) | reinterpret_cast<uintptr_t>(k.y) | reinterpret_cast<uintptr_t>(k.x);
  const auto move = [&]<class Unit>() {
    rows.width = bytes / int64_t(sizeof(Unit));
    launch(select_units<Unit>, pieces_launch(k.outer * k.count * rows.width, k.stream),
           out<Unit>(k.y), in<Unit>(k.x), rows);
  };
  if (offsets % 16 == 0) return move.template operator()<Vec<uint32_t, 4>>();
  visit_word(offsets % 8 == 0 ? 8 : offsets % 4 == 0 ? 4 : offsets % 2 == 0 ? 2 : 1, move);
}

}  // namespace

void run(Cuda, const IndexSelect& k) {
  const SelectRows rows{.index = indices_of(k.index, k.index_dtype),
                        .outer = k.outer,
                        .size = k.size,
                        .count = k.count,
                        .width = k.inner,
                        .faults = {k.op, k.stream}};
  if (k.outer * k.inner == 0) return launch(check_all, pieces_launch(k.count, k.stream), rows);
  if (k.x_dtype == k.dtype) return select_bytes(k, rows, k.inner * int64_t(size_of(k.dtype)));
  visit_cuda_float(k.x_dtype, [&]<class From>() {
    visit_cuda_float(k.dtype, [&]<class To>() {
      constexpr int N = kVecBetween<From, To>;
      const int64_t pieces = k.outer * k.count * ceil_div(k.inner, N);
      launch(select_converted<From, To>, pieces_launch(pieces, k.stream), out<To>(k.y),
             in<From>(k.x), rows,
             is_vectorizable<From>(k.inner, k.x) && is_vectorizable<To>(k.inner, k.y));
    });
  });
}

void run(Cuda, const Gather& k) {
  visit_word(size_of(k.dtype), [&]<class Word>() {
    const GatherElements<Word> elements{.y = out<Word>(k.y),
                                        .x = in<Word>(k.x),
                                        .index = indices_of(k.index, k.index_dtype),
                                        .outer = k.outer,
                                        .size = k.size,
                                        .count = k.count,
                                        .inner = k.inner,
                                        .faults = {k.name, k.stream}};
    launch(gather<Word>, pieces_launch(k.outer * k.count * k.inner, k.stream), elements);
  });
}

void run(Cuda, const OneHot& k) {
  const uint64_t one = visit_cuda_any(k.dtype, [&]<class T>() {
    const T value = convert<T>(1.0f);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
  });
  visit_word(size_of(k.dtype), [&]<class Word>() {
    launch(one_hot<Word>, pieces_launch(k.count * k.size, k.stream), out<Word>(k.y),
           indices_of(k.index, k.index_dtype), k.count, k.size, Word(one),
           Faults(k.name, k.stream));
  });
}

}  // namespace olm::kernels
