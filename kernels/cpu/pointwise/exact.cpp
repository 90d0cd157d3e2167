// f64 (the oracle), i32 and i64. One chunk at a time, formulas from pointwise-inl.h.
#include <olm/kernels/cpu/pointwise/exact.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/pointwise/operand.h>
#include <olm/kernels/pointwise-inl.h>

namespace olm::kernels {
namespace {

/// Calls f.operator()<T>() for the dtypes of this file.
template <class F>
void visit_exact(DType t, F&& f) {
  if (t == f64) return f.template operator()<double>();
  visit_index(t, f);
}

/// Calls body(begin, n) for chunks of [0, total), in parallel.
template <class Body>
void for_chunks(int64_t total, Body&& body) {
  parallel_for(total, kPointwiseGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kPointwiseChunk)
      body(i, std::min(kPointwiseChunk, end - i));
  });
}

template <class T>
void unary_chunk(const Unary& k, const T* x, T* y, int64_t n) {
  scalar::visit_unary(k.op, k.a, k.b, [&](auto op) {
    if constexpr (decltype(op)::integers || std::is_same_v<T, double>)
      for (int64_t i = 0; i < n; ++i) y[i] = op.f(x[i]);
    else
      fail("pointwise: this op has no ", k.dtype, " form");
  });
}

void unary_backward_chunk(const UnaryBackward& k, int64_t begin, int64_t n) {
  const double* dy = in<double>(k.dy) + begin;
  double* dx = out<double>(k.dx) + begin;
  scalar::visit_unary(k.op, k.a, k.b, [&](auto op) {
    using Op = decltype(op);
    const double* x = Op::kX ? in<double>(k.x) + begin : dy;
    const double* y = Op::kY ? in<double>(k.y) + begin : dy;
    for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * op.df(x[i], y[i]);
  });
}

template <class T>
void binary_chunk(const Binary& k, const T* a, const T* b, T* y, int64_t n) {
  scalar::visit_binary(k.op, [&](auto op) {
    if constexpr (decltype(op)::integers || std::is_same_v<T, double>)
      for (int64_t i = 0; i < n; ++i) y[i] = op.f(a[i], b[i]);
    else
      fail("pointwise: this op has no ", k.dtype, " form");
  });
}

}  // namespace

void run_exact(const Unary& k) {
  visit_exact(k.dtype, [&]<class T>() {
    for_chunks(k.n, [&](int64_t begin, int64_t n) {
      unary_chunk(k, in<T>(k.x) + begin, out<T>(k.y) + begin, n);
    });
  });
}

void run_exact(const UnaryBackward& k) {
  require(k.dtype == f64, "pointwise: ", k.dtype, " has no derivatives");
  for_chunks(k.n, [&](int64_t begin, int64_t n) { unary_backward_chunk(k, begin, n); });
}

void run_exact(const Binary& k) {
  visit_exact(k.dtype, [&]<class T>() {
    const Operand<T> a(k.a, k.rank, k.shape), b(k.b, k.rank, k.shape);
    for_chunks(count(k.rank, k.shape), [&](int64_t begin, int64_t n) {
      T a_buffer[kPointwiseChunk], b_buffer[kPointwiseChunk];
      binary_chunk(k, a.fetch(begin, n, a_buffer), b.fetch(begin, n, b_buffer), out<T>(k.y) + begin,
                   n);
    });
  });
}

void run_exact(const BinaryBackward& k) {
  require(k.dtype == f64, "pointwise: ", k.dtype, " has no derivatives");
  const Operand<double> a_all(k.a, k.rank, k.shape), b_all(k.b, k.rank, k.shape);
  for_chunks(count(k.rank, k.shape), [&](int64_t begin, int64_t n) {
    double a_buffer[kPointwiseChunk], b_buffer[kPointwiseChunk];
    const double* a = a_all.fetch(begin, n, a_buffer);
    const double* b = b_all.fetch(begin, n, b_buffer);
    const double* dy = in<double>(k.dy) + begin;
    double* da = k.da ? out<double>(k.da) + begin : nullptr;
    double* db = k.db ? out<double>(k.db) + begin : nullptr;
    scalar::visit_binary(k.op, [&](auto op) {
      for (int64_t i = 0; da && i < n; ++i) da[i] = dy[i] * op.da(a[i], b[i]);
      for (int64_t i = 0; db && i < n; ++i) db[i] = dy[i] * op.db(a[i], b[i]);
    });
  });
}

Needs unary_needs(UnaryOp op) {
  return scalar::visit_unary(
      op, 0, 0, [](auto f) { return Needs{.x = decltype(f)::kX, .y = decltype(f)::kY}; });
}

}  // namespace olm::kernels
