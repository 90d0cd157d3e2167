// Packing of tiles. Sixteen vectors of sixteen words are read, turned where the stored order is not
// the tile's, and written; f32 is rounded to bf16 on the way where that is packed. Where the depth
// runs along memory a vector is one item's run; else it is one word of the depth for 16 items, for
// bf16 two rows interleaved.
#include <olm/kernels/cpu/gemm_tiles.h>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of the undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>

#define OLM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace olm::kernels::gemm_tiles {
namespace {

/// How elements of type T become words.
template <class T, DType packed>
struct Words;

template <>
struct Words<float, f32> {
  static constexpr int64_t kPerWord = 1;
  /// The first n of 16 words along the depth, zeros after them.
  OLM_AVX512 static __m512i run(const float* p, int64_t n) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
  }
  /// One word of the depth for n of 16 items. `next` is the following row of memory, where a word
  /// holds two elements and there is one.
  OLM_AVX512 static __m512i across(const float* p, const float*, int64_t n) { return run(p, n); }
};

/// The halves of a vector, interleaved.
OLM_AVX512 __m512i interleaved(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

template <>
struct Words<bfloat16_t, bf16> {
  static constexpr int64_t kPerWord = 2;
  OLM_AVX512 static __m512i run(const bfloat16_t* p, int64_t n) {
    return _mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p);
  }
  OLM_AVX512 static __m512i across(const bfloat16_t* p, const bfloat16_t* next, int64_t n) {
    const auto mask = __mmask16((1u << n) - 1);
    const __m256i low = _mm256_maskz_loadu_epi16(mask, p);
    const __m256i high = next ? _mm256_maskz_loadu_epi16(mask, next) : _mm256_setzero_si256();
    return interleaved(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
  }
};

/// Both vectors rounded to bf16, one after the other. By name: the intrinsic wants its callers,
/// which f32 shares, to be compiled for AVX512_BF16.
OLM_AVX512 __m512i rounded(__m512 low, __m512 high) {
  __m512i both;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(low), "v"(high));
  return both;
}

template <>
struct Words<float, bf16> {
  static constexpr int64_t kPerWord = 2;
  OLM_AVX512 static __m512i run(const float* p, int64_t n) {
    const auto mask = __mmask32((uint64_t(1) << n) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(__mmask16(mask), p);
    const __m512 high = _mm512_maskz_loadu_ps(__mmask16(mask >> 16), p + 16);
    return rounded(low, high);
  }
  OLM_AVX512 static __m512i across(const float* p, const float* next, int64_t n) {
    const auto mask = __mmask16((1u << n) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(mask, p);
    const __m512 high = next ? _mm512_maskz_loadu_ps(mask, next) : _mm512_setzero_ps();
    return interleaved(rounded(low, high));
  }
};

/// Rows become columns: 16 x 16 pairs.
OLM_AVX512 void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; ++j) {
      t[i + j] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; ++j) {
    v[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
    v[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
  }
}

/// One tile: 16 items from `item`, 16 words of the depth.
template <class T, DType packed, bool along_depth, bool turn>
OLM_AVX512 void pack_tile(const Source& s, int64_t item, int64_t depth, Word* to) {
  using W = Words<T, packed>;
  const int64_t ld = s.matrix.ld;
  const int64_t items = std::clamp<int64_t>(s.items - item, 0, 16);
  const int64_t deep = std::clamp<int64_t>(s.depth - depth, 0, 16 * W::kPerWord);
  const T* base = in<T>(s.matrix.data) + (along_depth ? item * ld + depth : depth * ld + item);
  __m512i v[16];
  for (int64_t r = 0; r < 16; ++r) {
    if constexpr (along_depth) {
      v[r] = r < items ? W::run(base + r * ld, deep) : _mm512_setzero_si512();
    } else {
      const int64_t at = r * W::kPerWord;
      const T* next = at + 1 < deep ? base + (at + 1) * ld : nullptr;
      v[r] =
          at < deep && items > 0 ? W::across(base + at * ld, next, items) : _mm512_setzero_si512();
    }
  }
  if constexpr (turn) transpose(v);
  for (int64_t r = 0; r < 16; ++r) _mm512_store_si512(to + r * 16, v[r]);
}

/// Strips one after another, or, where memory runs across them, all of a step before the next: rows
/// of memory are then read in longer runs.
template <class T, DType packed, bool along_depth, bool turn>
void pack_strips(const Source& s, const Part& at, int64_t strip_size, Word* to) {
  const auto step = [&](int64_t strip, int64_t q) {
    const int64_t item = at.item + strip * s.strip, depth = at.depth + q * step_depth(packed);
    Word* tile = to + strip * strip_size + q * s.step_size();
    for (int64_t i = 0; i < s.strip; i += 16, tile += kTile)
      pack_tile<T, packed, along_depth, turn>(s, item + i, depth, tile);
  };
  if (along_depth) {
    for (int64_t strip = 0; strip < at.strips; ++strip)
      for (int64_t q = 0; q < at.steps; ++q) step(strip, q);
  } else {
    for (int64_t q = 0; q < at.steps; ++q)
      for (int64_t strip = 0; strip < at.strips; ++strip) step(strip, q);
  }
}

template <class T, DType packed>
void pack_as(const Source& s, const Part& at, int64_t strip_size, Word* to) {
  const bool along = s.runs_along_depth(), rows = s.items_are_rows;
  const auto strips =
      along ? (rows ? pack_strips<T, packed, true, false> : pack_strips<T, packed, true, true>)
            : (rows ? pack_strips<T, packed, false, true> : pack_strips<T, packed, false, false>);
  strips(s, at, strip_size, to);
}

}  // namespace

void pack(DType packed, const Source& source, const Part& at, int64_t strip_size, Word* to) {
  if (packed == f32) return pack_as<float, f32>(source, at, strip_size, to);
  if (source.matrix.dtype == f32) return pack_as<float, bf16>(source, at, strip_size, to);
  pack_as<bfloat16_t, bf16>(source, at, strip_size, to);
}

}  // namespace olm::kernels::gemm_tiles
#else
// No unit, nothing to pack.
void olm::kernels::gemm_tiles::pack(DType, const Source&, const Part&, int64_t, Word*) {}
#endif  // x86
