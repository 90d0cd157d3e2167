// Reductions: the axis is cut into blocks that depend on the shape alone, each block is folded by
// vectors into one partial result per column, and partial results are folded pairwise. Work is
// handed out by (outer, block, columns). Traffic: x once per pass, partial results are 1/128 of
// that or less.
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/reduce.h>

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/reduce.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kRowElements = 1024;  // of one block where inner == 1; longer sums lose digits
constexpr int64_t kBlockRows = 128;     // of one block where inner > 1
constexpr int64_t kColumns = 512;       // handled together where inner > 1
constexpr int64_t kGrain = 16384;       // elements that make a range of work

// A fold: its neutral value, what one element contributes (`ref` is a value known from an earlier
// pass, per column), and how two contributions join.
struct Sum {
  template <class A>
  static A neutral() {
    return A(0);
  }
  template <class D, class V>
  static HWY_INLINE V term(D, V x, V) {
    return x;
  }
  template <class D, class V>
  static HWY_INLINE V join(D, V a, V b) {
    return hn::Add(a, b);
  }
  template <class A>
  static A join(A a, A b) {
    return a + b;
  }
};
struct SumExp : Sum {
  template <class D, class V>
  static HWY_INLINE V term(D d, V x, V ref) {
    return exp(d, hn::Sub(x, ref));
  }
};
struct SumSquares : Sum {
  template <class D, class V>
  static HWY_INLINE V term(D, V x, V ref) {
    const V centred = hn::Sub(x, ref);
    return hn::Mul(centred, centred);
  }
};
/// The same times kTiny², which squares of up to the largest numbers do not overflow.
template <class A>
inline constexpr A kTiny = A(0x1p-70);
struct SumTinySquares : Sum {
  template <class D, class V>
  static HWY_INLINE V term(D d, V x, V ref) {
    const V centred = hn::Mul(hn::Sub(x, ref), hn::Set(d, kTiny<hn::TFromD<D>>));
    return hn::Mul(centred, centred);
  }
};
struct Max : Sum {
  template <class A>
  static A neutral() {
    return -std::numeric_limits<A>::infinity();
  }
  template <class D, class V>
  static HWY_INLINE V join(D d, V a, V b) {
    return max_nan(d, a, b);
  }
  template <class A>
  static A join(A a, A b) {
    return a != a || a > b ? a : b;
  }
};
struct Min : Sum {
  template <class A>
  static A neutral() {
    return std::numeric_limits<A>::infinity();
  }
  template <class D, class V>
  static HWY_INLINE V join(D d, V a, V b) {
    return min_nan(d, a, b);
  }
  template <class A>
  static A join(A a, A b) {
    return a != a || a < b ? a : b;
  }
};

template <class Fold, class D, class T>
HWY_INLINE hn::Vec<D> tail_term(D d, const T* x, size_t n, hn::Vec<D> ref) {
  const auto neutral = hn::Set(d, Fold::template neutral<hn::TFromD<D>>());
  return hn::IfThenElse(hn::FirstN(d, n), Fold::term(d, load(d, x, Tail{n}), ref), neutral);
}

/// Folds n elements in a row into one.
template <class Fold, class T, class A = acc_t<T>>
A fold_row(const T* x, int64_t n, A ref_value) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto ref = hn::Set(d, ref_value);
  auto a = hn::Set(d, Fold::template neutral<A>()), b = a, c = a, e = a;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = Fold::join(d, a, Fold::term(d, load(d, x + i), ref));
    b = Fold::join(d, b, Fold::term(d, load(d, x + i + lanes), ref));
    c = Fold::join(d, c, Fold::term(d, load(d, x + i + 2 * lanes), ref));
    e = Fold::join(d, e, Fold::term(d, load(d, x + i + 3 * lanes), ref));
  }
  for (; i + lanes <= n; i += lanes) a = Fold::join(d, a, Fold::term(d, load(d, x + i), ref));
  if (i < n) b = Fold::join(d, b, tail_term<Fold>(d, x + i, size_t(n - i), ref));
  HWY_ALIGN A lane[HWY_MAX_BYTES / sizeof(A)];
  hn::Store(Fold::join(d, Fold::join(d, a, b), Fold::join(d, c, e)), d, lane);
  for (int64_t width = lanes / 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; ++j) lane[j] = Fold::template join<A>(lane[j], lane[j + width]);
  return lane[0];
}

/// Folds `rows` rows of `cols` <= kColumns elements into one row; ref may be null.
template <class Fold, class T, class A = acc_t<T>>
void fold_columns(const T* x, int64_t rows, int64_t stride, int64_t cols, const A* ref, A* y) {
  const hn::ScalableTag<A> d;
  HWY_ALIGN A sums[kColumns + HWY_MAX_BYTES / sizeof(A)];
  std::fill_n(sums, kColumns + HWY_MAX_BYTES / sizeof(A), Fold::template neutral<A>());
  for (int64_t r = 0; r < rows; ++r)
    for_vectors(d, cols, [&](int64_t i, auto part) {
      const auto base = ref ? load(d, ref + i, part) : hn::Zero(d);
      const auto term = Fold::term(d, load(d, x + r * stride + i, part), base);
      hn::Store(Fold::join(d, hn::Load(d, sums + i), term), d, sums + i);
    });
  std::copy_n(sums, cols, y);
}

/// Joins partial results [outer, blocks, inner] pairwise into y [outer, inner].
template <class Fold, class A>
void join_blocks(A* partial, A* y, int64_t outer, int64_t blocks, int64_t inner) {
  const int64_t chunk = std::min(inner, kColumns), chunks = ceil_div(inner, chunk);
  parallel_for(outer * chunks, rows_per_range(blocks * chunk), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t o = item / chunks, first = item % chunks * chunk;
      const int64_t cols = std::min(chunk, inner - first);
      A* p = partial + o * blocks * inner + first;
      for (int64_t step = 1; step < blocks; step *= 2)
        for (int64_t b = 0; b + step < blocks; b += 2 * step) {
          A *to = p + b * inner, *from = p + (b + step) * inner;
          for (int64_t i = 0; i < cols; ++i) to[i] = Fold::template join<A>(to[i], from[i]);
        }
      std::copy_n(p, cols, y + o * inner + first);
    }
  });
}

/// One pass over x: y[o, i] in the accumulation type; ref [outer, inner] may be null.
template <class Fold, class T, class A = acc_t<T>>
void fold(const T* x, const A* ref, A* y, int64_t outer, int64_t reduced, int64_t inner,
          const Stream& stream) {
  if (outer * inner == 0) return;
  const int64_t rows = inner == 1 ? kRowElements : kBlockRows;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(reduced, rows));
  const int64_t chunk = std::min(inner, kColumns), chunks = ceil_div(inner, chunk);
  const Scratch<A> scratch = stream.scratch<A>(blocks > 1 ? size_t(outer * blocks * inner) : 1);
  A* partial = blocks > 1 ? scratch.get() : y;
  const int64_t work = std::max<int64_t>(1, std::min(reduced, rows) * chunk);
  parallel_for(outer * blocks * chunks, rows_per_range(work, kGrain),
               [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t o = item / (blocks * chunks), b = item / chunks % blocks;
                   const int64_t first = item % chunks * chunk, r = b * rows;
                   const T* from = x + (o * reduced + r) * inner + first;
                   const A* base = ref ? ref + o * inner + first : nullptr;
                   A* to = partial + (o * blocks + b) * inner + first;
                   const int64_t n = std::min(rows, reduced - r);
                   if (inner == 1)
                     *to = fold_row<Fold>(from, n, base ? *base : A(0));
                   else
                     fold_columns<Fold>(from, n, inner, std::min(chunk, inner - first), base, to);
                 }
               });
  if (blocks > 1) join_blocks<Fold>(partial, y, outer, blocks, inner);
}

/// y[i] = f(i), converted to T.
template <class T, class F>
void finish(T* y, int64_t n, F&& f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = T(f(i));
  });
}

/// The first index along the axis whose element equals the extreme (or is NaN, as it is).
template <class T, class A>
void find_index(const Reduce& k, const A* extreme) {
  int64_t* y = out<int64_t>(k.y);
  parallel_for(k.outer * k.inner, rows_per_range(k.reduced, kGrain),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const T* x = in<T>(k.x) + i / k.inner * k.reduced * k.inner + i % k.inner;
                   const A wanted = extreme[i];
                   int64_t r = 0;
                   if (wanted == wanted)
                     while (A(x[r * k.inner]) != wanted) ++r;
                   else
                     while (A(x[r * k.inner]) == A(x[r * k.inner])) ++r;
                   y[i] = r;
                 }
               });
}

template <class T>
void log_sum_exp(const Reduce& k) {
  using A = acc_t<T>;
  const int64_t n = k.outer * k.inner;
  const Scratch<A> max = k.stream.scratch<A>(size_t(n)), sum = k.stream.scratch<A>(size_t(n));
  fold<Max>(in<T>(k.x), static_cast<const A*>(nullptr), max.get(), k.outer, k.reduced, k.inner,
            k.stream);
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(max[i])) max[i] = 0;  // exp and log carry infinities and NaN by themselves
  fold<SumExp>(in<T>(k.x), static_cast<const A*>(max), sum.get(), k.outer, k.reduced, k.inner,
               k.stream);
  finish(out<T>(k.y), n, [&](int64_t i) { return max[i] + std::log(sum[i]); });
}

template <class T>
void reduce_floats(const Reduce& k) {
  using A = acc_t<T>;
  if (k.op == ReduceOp::logsumexp) return log_sum_exp<T>(k);
  const int64_t n = k.outer * k.inner;
  const bool index = k.op == ReduceOp::argmax || k.op == ReduceOp::argmin;
  const bool direct = std::is_same_v<T, A> && !index;
  const Scratch<A> scratch = k.stream.scratch<A>(direct ? 1 : size_t(n));
  A* result = direct ? out<A>(k.y) : scratch.get();
  const A* none = nullptr;
  if (k.op == ReduceOp::sum || k.op == ReduceOp::mean)
    fold<Sum>(in<T>(k.x), none, result, k.outer, k.reduced, k.inner, k.stream);
  else if (k.op == ReduceOp::max || k.op == ReduceOp::argmax)
    fold<Max>(in<T>(k.x), none, result, k.outer, k.reduced, k.inner, k.stream);
  else
    fold<Min>(in<T>(k.x), none, result, k.outer, k.reduced, k.inner, k.stream);
  if (index) return find_index<T>(k, result);
  if (k.op == ReduceOp::mean)
    finish(out<T>(k.y), n, [&](int64_t i) { return result[i] / A(k.reduced); });
  else if (!direct)
    finish(out<T>(k.y), n, [&](int64_t i) { return result[i]; });
}

/// Integers, exact in any order: plain loops.
template <class T>
void reduce_integers(const Reduce& k) {
  const ReduceOp op = k.op;
  const bool index = op == ReduceOp::argmax || op == ReduceOp::argmin;
  const bool greatest = op == ReduceOp::max || op == ReduceOp::argmax;
  require(op != ReduceOp::mean && op != ReduceOp::logsumexp, "reduce: ", k.dtype,
          " has no mean or logsumexp");
  parallel_for(k.outer * k.inner, rows_per_range(k.reduced, kGrain),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const T* x = in<T>(k.x) + i / k.inner * k.reduced * k.inner + i % k.inner;
                   uint64_t sum = 0;
                   int64_t best = 0;
                   for (int64_t r = 0; r < k.reduced; ++r) {
                     const T v = x[r * k.inner];
                     sum += uint64_t(v);
                     if (greatest ? v > x[best * k.inner] : v < x[best * k.inner]) best = r;
                   }
                   if (index)
                     out<int64_t>(k.y)[i] = best;
                   else
                     out<T>(k.y)[i] = op == ReduceOp::sum ? T(sum) : x[best * k.inner];
                 }
               });
}

void reduce(const Reduce& k) {
  if (is_float(k.dtype)) return visit_float(k.dtype, [&]<class T>() { reduce_floats<T>(k); });
  visit_index(k.dtype, [&]<class T>() { reduce_integers<T>(k); });
}

/// Squares over `divisor`. Where their sum overflowed they are summed again smaller: the quotient
/// may well be in range.
template <class T, class A = acc_t<T>>
void finish_variance(const Variance& k, const A* squares, A divisor) {
  const int64_t n = k.outer * k.inner;
  const auto overflowed = [](A s) { return std::isinf(s); };
  const bool again = std::any_of(squares, squares + n, overflowed);
  const Scratch<A> tiny = k.stream.scratch<A>(again ? size_t(n) : 1);
  if (again)
    fold<SumTinySquares>(in<T>(k.x), static_cast<const A*>(out<A>(k.mean)), tiny.get(), k.outer,
                         k.reduced, k.inner, k.stream);
  finish(out<T>(k.y), n, [&](int64_t i) {
    return overflowed(squares[i]) ? tiny[i] / divisor / kTiny<A> / kTiny<A> : squares[i] / divisor;
  });
}

void variance(const Variance& k) {
  visit_float(k.dtype, [&]<class T>() {
    using A = acc_t<T>;
    const int64_t n = k.outer * k.inner;
    A* mean = out<A>(k.mean);
    const Scratch<A> squares = k.stream.scratch<A>(size_t(n));
    fold<Sum>(in<T>(k.x), static_cast<const A*>(nullptr), mean, k.outer, k.reduced, k.inner,
              k.stream);
    finish(mean, n, [&](int64_t i) { return mean[i] / A(k.reduced); });
    fold<SumSquares>(in<T>(k.x), static_cast<const A*>(mean), squares.get(), k.outer, k.reduced,
                     k.inner, k.stream);
    const A divisor = std::max(A(0), A(double(k.reduced) - k.correction));
    finish_variance<T>(k, squares.get(), divisor);
  });
}

}  // namespace
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(reduce);
HWY_EXPORT(variance);

void run(Cpu, const Reduce& k) {
  const bool extreme = k.op == ReduceOp::max || k.op == ReduceOp::min || k.op == ReduceOp::argmax ||
                       k.op == ReduceOp::argmin;
  require(!extreme || k.reduced > 0 || k.outer * k.inner == 0,
          "reduce: an empty axis has no largest or smallest element");
  HWY_DYNAMIC_DISPATCH(reduce)(k);
}
void run(Cpu, const Variance& k) { HWY_DYNAMIC_DISPATCH(variance)(k); }
}  // namespace olm::kernels
#endif
