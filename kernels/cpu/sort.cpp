// Elements become unsigned keys of the same order, paired with their index: all pairs differ, so
// any sort is stable. Threads own rows.
#include <algorithm>
#include <bit>
#include <type_traits>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/sort.h>

namespace olm::kernels {
namespace {

/// A float's bits as an unsigned number of the same order; NaN is the largest, -0 becomes 0.
template <class Bits, class Float>
Bits float_key(Float v) {
  constexpr Bits sign = Bits(1) << (sizeof(Bits) * 8 - 1);
  if (v != v) return ~Bits(0);
  const Bits bits = std::bit_cast<Bits>(v + Float(0));
  return bits & sign ? ~bits : bits | sign;
}

template <class T>
auto key_of(T v) {
  if constexpr (std::is_same_v<T, double>)
    return float_key<uint64_t>(v);
  else if constexpr (std::is_same_v<T, int64_t>)
    return uint64_t(v) ^ (uint64_t(1) << 63);
  else if constexpr (std::is_same_v<T, int32_t>)
    return uint32_t(v) ^ (uint32_t(1) << 31);
  else if constexpr (std::is_same_v<T, bool>)
    return uint32_t(v);
  else
    return float_key<uint32_t>(static_cast<float>(v));
}

struct Wide {
  uint64_t key;
  int64_t index;
  friend bool operator<(const Wide& a, const Wide& b) {
    return a.key != b.key ? a.key < b.key : a.index < b.index;
  }
};
int64_t index_of(const Wide& item) { return item.index; }
int64_t index_of(uint64_t item) { return int64_t(item & 0xffffffffu); }

/// 32-bit keys share a word with their index.
template <class T>
using Item = std::conditional_t<sizeof(key_of(T())) == 4, uint64_t, Wide>;

template <class T>
Item<T> make_item(T v, int64_t index, bool descending) {
  const auto key = descending ? ~key_of(v) : key_of(v);
  if constexpr (sizeof(key) == 4)
    return uint64_t(key) << 32 | uint64_t(index);
  else
    return {key, index};
}

template <class T>
void sort_row(const Sort& k, int64_t r, Item<T>* items) {
  const T* x = row<T>(k.x, r, k.cols);
  for (int64_t c = 0; c < k.cols; ++c) items[c] = make_item(x[c], c, k.descending);
  if (k.count < k.cols / 8) {
    std::partial_sort(items, items + k.count, items + k.cols);
  } else {
    if (k.count < k.cols) std::nth_element(items, items + k.count, items + k.cols);
    std::sort(items, items + k.count);
  }
  for (int64_t c = 0; c < k.count; ++c) {
    const int64_t from = index_of(items[c]);
    if (k.values) row_out<T>(k.values, r, k.count)[c] = x[from];
    if (k.indices) row_out<int64_t>(k.indices, r, k.count)[c] = from;
  }
}

}  // namespace

void run(Cpu, const Sort& k) {
  require(k.count >= 0 && k.count <= k.cols, "sort: wanted ", k.count, " of ", k.cols, " elements");
  require(k.cols < (int64_t(1) << 32), "sort: a row of ", k.cols, " elements is too long");
  if (k.count == 0) return;
  visit_any(k.dtype, [&]<class T>() {
    parallel_for(k.rows, rows_per_range(k.cols, 4096), [&](int64_t begin, int64_t end) {
      const auto items = k.stream.scratch<Item<T>>(size_t(k.cols));
      for (int64_t r = begin; r < end; ++r) sort_row<T>(k, r, items);
    });
  });
}

}  // namespace olm::kernels
