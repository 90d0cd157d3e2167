// What happens to S between the GEMM and the softmax, row by row in a tile, and the
// dropout of weights. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_SCORES_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_SCORES_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_SCORES_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/flash_attention/packs.h>
#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/cpu/philox-inl.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using attention::kTile;
using attention::Place;
using attention::Span;
using attention::TileMask;
using attention::transforms_scores;

template <class A>
constexpr A kMinusInfinity = -std::numeric_limits<A>::infinity();

/// By a vector's arithmetic, so that it has the bits of the others.
template <class A>
HWY_INLINE A exp2_scalar(A t) {
  const hn::CappedTag<A, 4> d;
  return hn::GetLane(exp2_of_term(d, hn::Set(d, t)));
}

/// Adds the mask's row to `bias` [kTile]: keys [begin, end) of a tile, -inf where a boolean is
/// false.
template <class A>
void add_mask_row(const Attention& a, const Place& p, int64_t i, Span keys, A* bias) {
  const int64_t* s = a.mask_strides;
  const int64_t first = p.b * s[0] + p.h * s[1] + i * s[2] + p.j0 * s[3], step = s[3];
  if (a.mask_dtype == boolean) {
    const uint8_t* mask = in<uint8_t>(a.mask) + first;
    for (int64_t j = keys.begin; j < keys.end; ++j)
      bias[j] = mask[j * step] ? bias[j] : kMinusInfinity<A>;
    return;
  }
  visit_float(a.mask_dtype, [&]<class T>() {
    const T* mask = in<T>(a.mask) + first;
    if constexpr (std::is_same_v<acc_t<T>, A>) {
      if (step == 1) {
        const hn::ScalableTag<A> d;
        for_vectors(d, keys.end - keys.begin, [&](int64_t c, auto part) HWY_ATTR {
          const int64_t j = keys.begin + c;
          store(d, hn::Add(load(d, bias + j, part), load(d, mask + j, part)), bias + j, part);
        });
        return;
      }
    }
    for (int64_t j = keys.begin; j < keys.end; ++j) bias[j] += A(acc_t<T>(mask[j * step]));
  });
}

template <class A>
void add_documents_row(const Attention& a, const Place& p, int64_t i, Span keys, A* bias) {
  const int32_t mine = a.query_documents[p.b * a.queries + i];
  const int32_t* ids = a.key_documents + p.b * a.keys + p.j0;
  for (int64_t j = keys.begin; j < keys.end; ++j)
    bias[j] = ids[j] == mine ? bias[j] : kMinusInfinity<A>;
}

/// Scale, softcap, slope, mask and documents on the attended part of S. `dcap`, where given,
/// receives the derivative of the softcap. Vectors run along keys, over whole blocks of the mask:
/// what falls beside a row's own keys is overwritten by the softmax, see inside(). Mask and
/// documents, whose dtypes and strides are many, are first gathered into one row of biases.
template <class A>
void transform_scores(const Attention& a, const Place& p, const TileMask& mask, double scale, A* S,
                      A* dcap) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  HWY_ALIGN A bias[kTile];
  const bool biased = a.mask != nullptr || mask.by_document;
  const A slope = a.slopes ? in<A>(a.slopes)[p.h] : A(0);
  const auto factor = hn::Set(d, A(scale));
  const auto cap = hn::Set(d, A(a.softcap)), per_cap = hn::Set(d, A(1 / a.softcap));
  for (int64_t r = 0; r < mask.block_count * mask.block_rows; ++r) {
    const Span block = mask.blocks[r / mask.block_rows], keys = mask.rows[r];
    if (keys.empty()) continue;
    const int64_t i = p.i0 + r;
    A* row = S + r * kTile;
    if (biased) {
      std::fill(bias + block.begin, bias + block.end, A(0));
      if (a.mask) add_mask_row(a, p, i, keys, bias);
      if (mask.by_document) add_documents_row(a, p, i, keys, bias);
    }
    // Counted from the tile's first key, so that |position - c| is exact in f32 near the diagonal,
    // however long the sequence is.
    const auto position = hn::Set(d, A(i + a.offset - p.j0));
    for (int64_t c = block.begin; c < block.end; c += lanes) {
      auto s = hn::Mul(factor, hn::LoadU(d, row + c));
      if (a.softcap > 0) {
        const auto t = hn::Tanh(d, hn::Mul(s, per_cap));
        if (dcap) hn::StoreU(hn::NegMulAdd(t, t, hn::Set(d, A(1))), d, dcap + r * kTile + c);
        s = hn::Mul(cap, t);
      }
      if (a.slopes)
        s = hn::NegMulAdd(hn::Set(d, slope), hn::Abs(hn::Sub(position, hn::Iota(d, A(c)))), s);
      if (biased) {
        const auto add = hn::LoadU(d, bias + c);
        // Put in place of the score, not added to it: NaN and infinity would stay.
        const auto never = hn::Eq(add, hn::Set(d, kMinusInfinity<A>));
        s = hn::IfThenElse(never, add, hn::Add(s, add));
      }
      hn::StoreU(s, d, row + c);
    }
  }
}

/// `v`, the scores of a row from key c on, with -inf outside the row's keys.
template <class D>
HWY_INLINE hn::Vec<D> inside(D d, hn::Vec<D> v, Span keys, int64_t c) {
  using A = hn::TFromD<D>;
  const auto index = hn::Iota(d, A(c));
  const auto in =
      hn::And(hn::Ge(index, hn::Set(d, A(keys.begin))), hn::Lt(index, hn::Set(d, A(keys.end))));
  return hn::IfThenElse(in, v, hn::Set(d, kMinusInfinity<A>));
}

/// factors[0, kTile): what dropout multiplies the weights of query row i by, 0 or 1 / (1 - p). A
/// counter of Philox gives four words, and rows of keys are counted as multiples of 4 (Attention),
/// so that tiles begin with whole counters, and backward finds the same words in any order.
template <class A>
void dropout_factors(const Attention& a, const Place& p, int64_t i, A* factors) {
  const hn::ScalableTag<uint32_t> d;
  const int64_t words_at_once = 4 * int64_t(hn::Lanes(d));
  HWY_ALIGN uint32_t words[kTile];
  const uint64_t row = uint64_t((p.b * a.heads + p.h) * a.queries + i);
  const uint64_t first = a.dropout_offset + row * uint64_t(round_up(a.keys, 4)) + uint64_t(p.j0);
  for (int64_t w = 0; w < kTile; w += words_at_once)
    philox_blocks(d, a.seed, first / 4 + uint64_t(w / 4), words + w);
  // to_uniform(word) = (word >> 8) · 2^-24, compared as integers.
  const uint32_t threshold = uint32_t(std::ceil(a.dropout * 0x1p24));
  const A kept = a.dropout < 1 ? A(1 / (1 - a.dropout)) : A(0);
  for (int64_t j = 0; j < kTile; ++j) factors[j] = words[j] >> 8 >= threshold ? kept : A(0);
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
