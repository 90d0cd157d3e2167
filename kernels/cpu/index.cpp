// Reads are split over rows, additions over columns: a thread owns all rows of its columns, so
// repeated indices never meet and sums have the order of the indices. Memory bound.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/index.cpp"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cstring>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/check_indices.h>
#include <olm/kernels/cpu/convert.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/index.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// Columns a thread owns when rows are added.
constexpr int64_t kColumns = 64;

template <class From, class To>
void convert(const From* x, To* y, int64_t n) {
  if constexpr (std::is_same_v<From, double> || std::is_same_v<To, double>) {
    for (int64_t i = 0; i < n; ++i)
      y[i] = To(static_cast<acc_t<To>>(static_cast<acc_t<From>>(x[i])));
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bfloat16_t>) {
    olm::kernels::to_bf16(x, y, n);
  } else {
    const hn::ScalableTag<float> d;
    for_vectors(d, n, [&](int64_t i, auto part) { store(d, load(d, x + i, part), y + i, part); });
  }
}

template <class From, class To, class Id>
void select_converted(const IndexSelect& k) {
  parallel_for(k.outer * k.count, rows_per_range(k.inner), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t from = (r / k.count) * k.size + int64_t(in<Id>(k.index)[r % k.count]);
      convert(row<From>(k.x, from, k.inner), row_out<To>(k.y, r, k.inner), k.inner);
    }
  });
}

void index_select(const IndexSelect& k) {
  visit_float(k.x_dtype, [&]<class From>() {
    visit_float(k.dtype, [&]<class To>() {
      visit_index(k.index_dtype, [&]<class Id>() { select_converted<From, To, Id>(k); });
    });
  });
}

/// y[0:n] += x[0:n].
template <class A, class T>
void add_row(A* y, const T* x, int64_t n) {
  const hn::ScalableTag<A> d;
  for_vectors(d, n, [&](int64_t i, auto part) {
    store(d, hn::Add(load(d, y + i, part), load(d, x + i, part)), y + i, part);
  });
}

template <class T, class Id>
void add_rows(const IndexAdd& k) {
  using A = acc_t<T>;
  const int64_t blocks = ceil_div(k.inner, kColumns);
  const int64_t work = k.count * std::min(k.inner, kColumns);
  parallel_for(k.outer * blocks, rows_per_range(work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kColumns, n = std::min(kColumns, k.inner - first);
      A* y = row_out<A>(k.y, task / blocks, k.size * k.inner) + first;
      const T* src = row<T>(k.src, task / blocks, k.count * k.inner) + first;
      for (int64_t j = 0; j < k.count; ++j)
        add_row(y + int64_t(in<Id>(k.index)[j]) * k.inner, src + j * k.inner, n);
    }
  });
}

void index_add(const IndexAdd& k) {
  visit_float(k.dtype, [&]<class T>() {
    if (!k.accumulate)
      parallel_for(k.outer * k.size * k.inner, 1 << 16, [&](int64_t begin, int64_t end) {
        std::fill(out<acc_t<T>>(k.y) + begin, out<acc_t<T>>(k.y) + end, acc_t<T>(0));
      });
    visit_index(k.index_dtype, [&]<class Id>() { add_rows<T, Id>(k); });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(index_select);
HWY_EXPORT(index_add);

/// Where dtypes agree a row is moved as bytes.
template <class Id>
void select_bytes(const IndexSelect& k) {
  const int64_t bytes = k.inner * int64_t(size_of(k.dtype));
  parallel_for(k.outer * k.count, rows_per_range(k.inner), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t from = (r / k.count) * k.size + int64_t(in<Id>(k.index)[r % k.count]);
      std::memcpy(row_out<char>(k.y, r, bytes), row<char>(k.x, from, bytes), size_t(bytes));
    }
  });
}

template <class T, class Id>
void gather(const Gather& k) {
  parallel_for(k.outer * k.count, rows_per_range(k.inner), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = row<T>(k.x, r / k.count, k.size * k.inner);
      const Id* ids = row<Id>(k.index, r, k.inner);
      T* y = row_out<T>(k.y, r, k.inner);
      for (int64_t i = 0; i < k.inner; ++i) y[i] = x[int64_t(ids[i]) * k.inner + i];
    }
  });
}

/// A thread owns `columns` columns of one outer index.
template <class T, class Id>
void scatter_add(const ScatterAdd& k) {
  using A = acc_t<T>;
  constexpr int64_t columns = 64;
  const int64_t blocks = ceil_div(k.inner, columns);
  const int64_t work = k.count * std::min(k.inner, columns);
  parallel_for(k.outer * blocks, rows_per_range(work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t o = task / blocks, first = task % blocks * columns;
      const int64_t last = std::min(first + columns, k.inner);
      A* y = row_out<A>(k.y, o, k.size * k.inner);
      for (int64_t j = 0; j < k.count; ++j) {
        const T* src = row<T>(k.src, o * k.count + j, k.inner);
        const Id* ids = row<Id>(k.index, o * k.count + j, k.inner);
        for (int64_t i = first; i < last; ++i)
          y[int64_t(ids[i]) * k.inner + i] += static_cast<A>(src[i]);
      }
    }
  });
}

}  // namespace

void run(Cpu, const IndexSelect& k) {
  check_indices(k.op, k.index_dtype, k.index, k.count, k.size);
  if (k.outer * k.count * k.inner == 0) return;
  if (k.x_dtype != k.dtype) return HWY_DYNAMIC_DISPATCH(index_select)(k);
  visit_index(k.index_dtype, [&]<class Id>() { select_bytes<Id>(k); });
}

void run(Cpu, const IndexAdd& k) {
  check_indices(k.name, k.index_dtype, k.index, k.count, k.size);
  HWY_DYNAMIC_DISPATCH(index_add)(k);
}

void run(Cpu, const Gather& k) {
  check_indices(k.name, k.index_dtype, k.index, k.outer * k.count * k.inner, k.size);
  if (k.outer * k.count * k.inner == 0) return;
  visit_any(k.dtype,
            [&]<class T>() { visit_index(k.index_dtype, [&]<class Id>() { gather<T, Id>(k); }); });
}

void run(Cpu, const ScatterAdd& k) {
  check_indices(k.name, k.index_dtype, k.index, k.outer * k.count * k.inner, k.size);
  if (k.outer * k.count * k.inner == 0) return;
  visit_float(k.dtype, [&]<class T>() {
    visit_index(k.index_dtype, [&]<class Id>() { scatter_add<T, Id>(k); });
  });
}

void run(Cpu, const OneHot& k) {
  check_indices(k.name, k.index_dtype, k.index, k.count, k.size);
  visit_any(k.dtype, [&]<class T>() {
    visit_index(k.index_dtype, [&]<class Id>() {
      parallel_for(k.count, rows_per_range(k.size), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          T* y = row_out<T>(k.y, r, k.size);
          std::fill_n(y, k.size, T(acc_t<T>(0)));
          y[int64_t(in<Id>(k.index)[r])] = T(acc_t<T>(1));
        }
      });
    });
  });
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
