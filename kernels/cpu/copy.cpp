// Strided copy with conversion, and filling. Adjacent dimensions that are laid out alike are
// merged, then rows (the last dimension) are handed out in ranges; a transposed pair of dimensions
// goes by tiles.
#include <olm/kernels/base/convert.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/copy.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/convert.h>

namespace olm::kernels {
namespace {

template <class From, class To>
void copy_line(const From* x, int64_t xs, To* y, int64_t ys, int64_t n) {
  if (xs == 1 && ys == 1) {
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(static_cast<void*>(y), x, size_t(n) * sizeof(To));
      return;
    } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bfloat16_t>) {
      return to_bf16(x, y, n);
    } else if constexpr (std::is_same_v<From, bfloat16_t> && std::is_same_v<To, float>) {
      return to_f32(x, y, n);
    }
  }
  if (xs == 0) {
    const To value = convert<To>(*x);
    for (int64_t i = 0; i < n; ++i) y[i * ys] = value;
    return;
  }
  for (int64_t i = 0; i < n; ++i) y[i * ys] = convert<To>(x[i * xs]);
}

/// Start of line `index` (over all dimensions but the last) in x and in y.
std::pair<int64_t, int64_t> line_offsets(const Copy& k, int64_t index) {
  int64_t xo = 0, yo = 0;
  for (int i = k.rank - 2; i >= 0; --i) {
    const int64_t at = index % k.shape[i];
    index /= k.shape[i];
    xo += at * k.x_strides[i];
    yo += at * k.y_strides[i];
  }
  return {xo, yo};
}

/// One long line is cut so that threads share it.
template <class From, class To>
void copy_single_line(const Copy& k) {
  const int64_t xs = k.x_strides[0], ys = k.y_strides[0];
  parallel_for(k.shape[0], 65536, [&](int64_t begin, int64_t end) {
    copy_line(in<From>(k.x) + begin * xs, xs, out<To>(k.y) + begin * ys, ys, end - begin);
  });
}

/// The last two dimensions run in opposite directions in x and y: tiles keep both in cache.
template <class From, class To>
void copy_tiled(const Copy& k) {
  constexpr int64_t kTile = 32;
  const int64_t rows = k.shape[k.rank - 2], cols = k.shape[k.rank - 1];
  Copy outer = k;
  --outer.rank;
  outer.shape[outer.rank - 1] = 1;
  int64_t planes = 1;
  for (int i = 0; i < k.rank - 2; ++i) planes *= k.shape[i];
  const int64_t bands = ceil_div(rows, kTile);
  const int64_t xr = k.x_strides[k.rank - 2], xc = k.x_strides[k.rank - 1];
  const int64_t yr = k.y_strides[k.rank - 2], yc = k.y_strides[k.rank - 1];
  parallel_for(planes * bands, rows_per_range(kTile * cols), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const auto [xo, yo] = line_offsets(outer, b / bands);
      const int64_t r0 = b % bands * kTile, r1 = std::min(rows, r0 + kTile);
      for (int64_t c0 = 0; c0 < cols; c0 += kTile)
        for (int64_t r = r0; r < r1; ++r)
          copy_line(in<From>(k.x) + xo + r * xr + c0 * xc, xc, out<To>(k.y) + yo + r * yr + c0 * yc,
                    yc, std::min(kTile, cols - c0));
    }
  });
}

template <class From, class To>
void copy_typed(const Copy& k) {
  if (k.rank == 1) return copy_single_line<From, To>(k);
  const int last = k.rank - 1;
  if (k.x_strides[last] > 1 && k.x_strides[last - 1] == 1 && k.shape[last - 1] > 4)
    return copy_tiled<From, To>(k);
  int64_t lines = 1;
  for (int i = 0; i < last; ++i) lines *= k.shape[i];
  const int64_t n = k.shape[last];
  parallel_for(lines, rows_per_range(n, 65536), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [xo, yo] = line_offsets(k, i);
      copy_line(in<From>(k.x) + xo, k.x_strides[last], out<To>(k.y) + yo, k.y_strides[last], n);
    }
  });
}

}  // namespace

Copy simplified(const Copy& k) {
  Copy s = k;
  s.rank = 0;
  for (int i = 0; i < k.rank; ++i) {
    if (k.shape[i] == 1) continue;
    const int last = s.rank - 1;
    if (last >= 0 && s.x_strides[last] == k.x_strides[i] * k.shape[i] &&
        s.y_strides[last] == k.y_strides[i] * k.shape[i]) {
      s.shape[last] *= k.shape[i];
      s.x_strides[last] = k.x_strides[i];
      s.y_strides[last] = k.y_strides[i];
    } else {
      s.shape[s.rank] = k.shape[i];
      s.x_strides[s.rank] = k.x_strides[i];
      s.y_strides[s.rank++] = k.y_strides[i];
    }
  }
  if (s.rank == 0) {
    s.rank = 1;
    s.shape[0] = s.x_strides[0] = s.y_strides[0] = 1;
  }
  return s;
}

void run(Cpu, const Copy& k) {
  for (int i = 0; i < k.rank; ++i)
    if (k.shape[i] == 0) return;
  const Copy s = simplified(k);
  visit_any(k.from,
            [&]<class From>() { visit_any(k.to, [&]<class To>() { copy_typed<From, To>(s); }); });
}

/// A copy of one number, whose strides are 0.
void run(Cpu, const Fill& k) {
  const bool real = is_float(k.dtype);
  run(Cpu{}, Copy{.from = real ? f64 : i64,
                  .to = k.dtype,
                  .x = real ? static_cast<const void*>(&k.value) : &k.whole,
                  .y = k.y,
                  .rank = k.rank,
                  .shape = k.shape,
                  .y_strides = k.strides});
}

void run(Cpu, const Arange& k) {
  visit_any(k.dtype, [&]<class T>() {
    parallel_for(k.n, 65536, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out<T>(k.y)[i] = convert<T>(i);
    });
  });
}

}  // namespace olm::kernels
