// Comparisons and where: plain loops over chunks, which the compiler turns into vectors.
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/pointwise/operand.h>

namespace olm::kernels {
namespace {

/// What elements are compared as: 16-bit floats as f32, the others as they are.
template <class T>
auto comparable(T v) {
  if constexpr (std::is_same_v<T, bfloat16_t> || std::is_same_v<T, float16_t>)
    return float(v);
  else
    return v;
}

template <class T, class Test>
void compare_chunk(const T* a, const T* b, bool* y, int64_t n, Test&& test) {
  for (int64_t i = 0; i < n; ++i) y[i] = test(comparable(a[i]), comparable(b[i]));
}

template <class T>
void compare_chunk(CompareOp op, const T* a, const T* b, bool* y, int64_t n) {
  switch (op) {
    case CompareOp::eq:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u == v; });
    case CompareOp::ne:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u != v; });
    case CompareOp::lt:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u < v; });
    case CompareOp::le:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u <= v; });
    case CompareOp::gt:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u > v; });
    case CompareOp::ge:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u >= v; });
    case CompareOp::logical_and:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u != 0 && v != 0; });
    case CompareOp::logical_or:
      return compare_chunk(a, b, y, n, [](auto u, auto v) { return u != 0 || v != 0; });
  }
}

/// Elements are moved, not computed with: one loop per element size.
template <class Bits>
void where(const Where& k) {
  const Operand<bool> condition(k.condition, k.rank, k.shape);
  const Operand<Bits> a(k.a, k.rank, k.shape), b(k.b, k.rank, k.shape);
  parallel_for(count(k.rank, k.shape), kPointwiseGrain, [&](int64_t begin, int64_t end) {
    bool c_buffer[kPointwiseChunk];
    Bits a_buffer[kPointwiseChunk], b_buffer[kPointwiseChunk];
    for (int64_t i = begin; i < end; i += kPointwiseChunk) {
      const int64_t n = std::min(kPointwiseChunk, end - i);
      const bool* c = condition.fetch(i, n, c_buffer);
      const Bits *yes = a.fetch(i, n, a_buffer), *no = b.fetch(i, n, b_buffer);
      Bits* y = out<Bits>(k.y) + i;
      for (int64_t j = 0; j < n; ++j) y[j] = c[j] ? yes[j] : no[j];
    }
  });
}

}  // namespace

void run(Cpu, const Compare& k) {
  visit_any(k.dtype, [&]<class T>() {
    const Operand<T> a(k.a, k.rank, k.shape), b(k.b, k.rank, k.shape);
    parallel_for(count(k.rank, k.shape), kPointwiseGrain, [&](int64_t begin, int64_t end) {
      T a_buffer[kPointwiseChunk], b_buffer[kPointwiseChunk];
      for (int64_t i = begin; i < end; i += kPointwiseChunk) {
        const int64_t n = std::min(kPointwiseChunk, end - i);
        compare_chunk(k.op, a.fetch(i, n, a_buffer), b.fetch(i, n, b_buffer), out<bool>(k.y) + i,
                      n);
      }
    });
  });
}

void run(Cpu, const Where& k) {
  switch (size_of(k.dtype)) {
    case 1:
      return where<uint8_t>(k);
    case 2:
      return where<uint16_t>(k);
    case 4:
      return where<uint32_t>(k);
    default:
      return where<uint64_t>(k);
  }
}

}  // namespace olm::kernels
