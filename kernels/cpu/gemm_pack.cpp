// Packing of tiles. Sixteen vectors of sixteen words are read, turned where the stored order is not
// the tile's, and written; f32 is rounded to bf16 on the way where that is packed, or bf16 widened.
// Where the depth runs along memory a vector is one item's run; else it is one word of the depth
// for 16 items, for tiles of bf16 two rows interleaved.
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

/// The order that interleaves two runs of 16 elements, the second of which begins at `second`.
OLM_AVX512 __m512i interleaving(int second) {
  const __m512i twice = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8,
                                         7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_add_epi16(twice, _mm512_set1_epi32(second << 16));
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
    return _mm512_permutex2var_epi16(_mm512_castsi256_si512(low), interleaving(32),
                                     _mm512_castsi256_si512(high));
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
    return _mm512_permutexvar_epi16(interleaving(16), rounded(low, high));
  }
};

/// Sixteen bf16 as f32.
OLM_AVX512 __m512i widened(__m256i x) { return _mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

template <>
struct Words<bfloat16_t, f32> {
  static constexpr int64_t kPerWord = 1;
  OLM_AVX512 static __m512i run(const bfloat16_t* p, int64_t n) {
    return widened(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
  }
  OLM_AVX512 static __m512i across(const bfloat16_t* p, const bfloat16_t*, int64_t n) {
    return run(p, n);
  }
};

/// Rows become columns: 16 x 16 words.
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

/// How far ahead of the tiles memory is asked for: bytes along the depth, or steps across it.
constexpr int64_t kAheadBytes = 512, kAheadSteps = 1;

/// One tile: 16 items from `item`, 16 words of the depth; `full` says that there are so many.
template <class T, DType packed, bool along_depth, bool turn, bool full>
OLM_AVX512 void pack_tile(const Source& s, int64_t item, int64_t depth, Word* to) {
  using W = Words<T, packed>;
  constexpr int64_t kDeep = 16 * W::kPerWord;
  const int64_t ld = s.matrix.ld;
  const int64_t items = full ? 16 : std::clamp<int64_t>(s.items - item, 0, 16);
  const int64_t deep = full ? kDeep : std::clamp<int64_t>(s.depth - depth, 0, kDeep);
  const T* base = in<T>(s.matrix.data) + (along_depth ? item * ld + depth : depth * ld + item);
  __m512i v[16];
#pragma GCC unroll 16
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
#pragma GCC unroll 16
  for (int64_t r = 0; r < 16; ++r) _mm512_store_si512(to + r * 16, v[r]);
}

/// Asks for the memory that tiles further on are read from.
template <class T, DType packed, bool along_depth>
void ask_ahead(const Source& s, int64_t item, int64_t depth) {
  constexpr int64_t kDeep = step_depth(packed), kLine = Ahead::kLine;
  const T* data = in<T>(s.matrix.data);
  if constexpr (along_depth) {
    const char* at = reinterpret_cast<const char*>(data + item * s.matrix.ld + depth) + kAheadBytes;
    for (int64_t r = 0; r < 16; ++r, at += s.matrix.ld * int64_t(sizeof(T)))
      for (int64_t i = 0; i < kDeep * int64_t(sizeof(T)); i += kLine) __builtin_prefetch(at + i);
  } else {
    const T* at = data + (depth + kAheadSteps * kDeep) * s.matrix.ld + item;
    for (int64_t r = 0; r < kDeep; ++r, at += s.matrix.ld) __builtin_prefetch(at);
  }
}

/// One step of a strip.
template <class T, DType packed, bool along_depth, bool turn>
void pack_step(const Source& s, int64_t item, int64_t depth, Word* tile) {
  const int64_t deep = step_depth(packed), end = item + s.strip;
  for (; item < end; item += 16, tile += kTile) {
    if (item + 16 > s.items || depth + deep > s.depth) {
      pack_tile<T, packed, along_depth, turn, false>(s, item, depth, tile);
      continue;
    }
    ask_ahead<T, packed, along_depth>(s, item, depth);
    pack_tile<T, packed, along_depth, turn, true>(s, item, depth, tile);
  }
}

/// Strips one after another, or, where memory runs across them, all of a step before the next: rows
/// of memory are then read in longer runs.
template <class T, DType packed, bool along_depth, bool turn>
void pack_strips(const Source& s, const Part& at, int64_t strip_size, Word* to) {
  const auto step = [&](int64_t strip, int64_t q) {
    pack_step<T, packed, along_depth, turn>(s, at.item + strip * s.strip,
                                            at.depth + q * step_depth(packed),
                                            to + strip * strip_size + q * s.step_size());
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
  const auto pack_from = [&]<class T>() {
    const auto pack = packed == f32 ? pack_as<T, f32> : pack_as<T, bf16>;
    pack(source, at, strip_size, to);
  };
  if (source.matrix.dtype == f32) return pack_from.operator()<float>();
  pack_from.operator()<bfloat16_t>();
}

}  // namespace olm::kernels::gemm_tiles
#else
// No unit, nothing to pack.
void olm::kernels::gemm_tiles::pack(DType, const Source&, const Part&, int64_t, Word*) {}
#endif  // x86
