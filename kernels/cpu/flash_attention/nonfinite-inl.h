// What may not be attended leaves no trace, even where it is NaN or infinite.
//
// A masked pair has P = dS = 0, but 0 · NaN is NaN, so the GEMMs that multiply P and dS with rows
// of V, K, Q or dO would carry a NaN of a masked row into sums it has no part in. Those GEMMs
// therefore see rows with zeros in place of what is not finite, and add_nonfinite() then adds what
// was left out, for the pairs whose P or dS is not 0. Whether a tile is finite is found out once,
// when it is packed: finite tiles pay for nothing else. Scores need no such care: those of masked
// pairs are overwritten with -infinity before anything reads them. Included once per instruction
// set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_NONFINITE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_NONFINITE_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_NONFINITE_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_NONFINITE_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include <olm/kernels/cpu/flash_attention/packs.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using attention::kTile;
using attention::Span;
using attention::TileMask;
using attention::TileRows;

template <class T>
HWY_INLINE bool is_finite(T x) {
  return std::isfinite(acc_t<T>(x));
}

/// True where `n` elements, a multiple of the vector, are finite. Compares bits: without its sign a
/// number is finite if it is below infinity, and NaN is above.
template <class A>
bool all_finite(const A* x, int64_t n) {
  const hn::ScalableTag<A> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto infinity = hn::BitCast(du, hn::Set(d, std::numeric_limits<A>::infinity()));
  auto largest = hn::Zero(du);
  for (int64_t i = 0; i < n; i += int64_t(hn::Lanes(d)))
    largest = hn::Max(largest, hn::BitCast(du, hn::Abs(hn::LoadU(d, x + i))));
  return hn::AllTrue(du, hn::Lt(largest, infinity));
}

/// True where all elements of bf16 rows are finite: none has an exponent of all ones.
HWY_ATTR inline bool all_finite(const TileRows<bfloat16_t>& x) {
  const hn::ScalableTag<uint16_t> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto exponent = hn::Set(d, uint16_t(0x7f80));
  auto none = hn::Eq(exponent, hn::Zero(d));
  uint16_t some = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    const uint16_t* row = &x.data[r * x.stride].bits;
    int64_t c = 0;
    for (; c + lanes <= x.cols; c += lanes)
      none = hn::Or(none, hn::Eq(hn::And(hn::LoadU(d, row + c), exponent), exponent));
    for (; c < x.cols; ++c) some = uint16_t(some | ((row[c] & 0x7f80) == 0x7f80));
  }
  return some == 0 && hn::AllFalse(d, none);
}

/// The rows with zeros for what is not finite: themselves, where they are finite, else a copy.
template <class T>
class FinitePart {
 public:
  FinitePart(const Stream& stream, const TileRows<T>& x, bool finite)
      : copy_(stream.scratch<T>(finite ? 1 : size_t(x.rows * x.cols))), rows_(x) {
    if (finite) return;
    rows_ = {.data = copy_.get(), .stride = x.cols, .rows = x.rows, .cols = x.cols};
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) {
        const T v = x.data[r * x.stride + c];
        copy_.get()[r * x.cols + c] = is_finite(v) ? v : T();
      }
  }
  const TileRows<T>& rows() const { return rows_; }
  const T* data() const { return rows_.data; }

 private:
  const Scratch<T> copy_;
  TileRows<T> rows_;
};

/// Sums by query or by key: element (row, c) at data[row · row_step + c · col_step].
template <class A>
struct TileSums {
  A* data = nullptr;
  int64_t row_step = 0, col_step = 1;
};

/// sums[i, c] += P[i, j] · values[j, c] for the values of keys j that are not finite and the pairs
/// inside the mask whose P is not 0.
template <class T, class A>
void add_nonfinite_by_query(const TileMask& mask, const A* P, const TileRows<T>& values,
                            const TileSums<A>& sums) {
  for (int64_t j = 0; j < values.rows; ++j)
    for (int64_t c = 0; c < values.cols; ++c) {
      const T v = values.data[j * values.stride + c];
      if (is_finite(v)) continue;
      for (int64_t i = 0; i < mask.block_count * mask.block_rows; ++i) {
        const Span& block = mask.blocks[i / mask.block_rows];
        if (j < block.begin || j >= block.end || P[i * kTile + j] == 0) continue;
        sums.data[i * sums.row_step + c * sums.col_step] += P[i * kTile + j] * A(v);
      }
    }
}

/// sums[j, c] += P[i, j] · values[i, c] for the values of queries i that are not finite.
template <class T, class A>
void add_nonfinite_by_key(const TileMask& mask, const A* P, const TileRows<T>& values,
                          const TileSums<A>& sums) {
  for (int64_t i = 0; i < values.rows; ++i)
    for (int64_t c = 0; c < values.cols; ++c) {
      const T v = values.data[i * values.stride + c];
      if (is_finite(v)) continue;
      const Span& block = mask.blocks[i / mask.block_rows];
      for (int64_t j = block.begin; j < block.end; ++j)
        if (P[i * kTile + j] != 0)
          sums.data[j * sums.row_step + c * sums.col_step] += P[i * kTile + j] * A(v);
    }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
