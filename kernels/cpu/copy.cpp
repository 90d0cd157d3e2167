// Strided copy with conversion. Adjacent dimensions that are laid out alike are merged, then rows
// (the last dimension) are handed out in ranges; a transposed pair of dimensions goes by tiles.
#include <olm/kernels/base/math.h>
#include <olm/kernels/copy.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/convert.h>

namespace olm::kernels {
namespace {

/// v as f32, rounded to odd where it is not exact: a narrower float made of that is rounded once.
float rounded_to_odd(double v) {
  const float nearest = static_cast<float>(v);
  if (double(nearest) == v || std::isnan(v)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(double(nearest)) > std::fabs(v)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

/// v, or beyond 2^53 a neighbour that f64 holds, odd in its last place of 2^11.
double rounded_to_odd(int64_t v) {
  constexpr int64_t kExact = int64_t(1) << 53;
  if (v >= -kExact && v <= kExact) return double(v);
  return double(((v >> 11) | int64_t((v & 2047) != 0)) * 2048);
}

template <class To, class From>
To convert(From v) {
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (std::is_same_v<To, bool>) {
    if constexpr (std::is_arithmetic_v<From>)
      return v != From(0);
    else
      return float(v) != 0.0f;
  } else if constexpr (std::is_arithmetic_v<From>) {
    if constexpr (std::is_arithmetic_v<To>)
      return static_cast<To>(v);
    else if constexpr (std::is_same_v<From, float>)
      return To(v);
    else if constexpr (std::is_same_v<From, int64_t>)
      return To(rounded_to_odd(rounded_to_odd(v)));
    else
      return To(rounded_to_odd(static_cast<double>(v)));
  } else {
    if constexpr (std::is_arithmetic_v<To>)
      return static_cast<To>(static_cast<float>(v));
    else
      return To(static_cast<float>(v));
  }
}

/// The copy with dimensions of size 1 gone and mergeable neighbours merged; rank >= 1.
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

void run(Cpu, const Copy& k) {
  for (int i = 0; i < k.rank; ++i)
    if (k.shape[i] == 0) return;
  const Copy s = simplified(k);
  visit_any(k.from,
            [&]<class From>() { visit_any(k.to, [&]<class To>() { copy_typed<From, To>(s); }); });
}

}  // namespace olm::kernels
