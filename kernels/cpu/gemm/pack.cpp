// Packing of micro-panels, a tile of 16 x 16 words at a time: sixteen vectors are read, transposed
// in registers where the stored order is not the tile's, and written. On the way f32 is rounded to
// bf16 where that is packed, or bf16 widened. Where K is contiguous in memory a vector holds 16
// words along K of one row or column; else it holds one word along K of 16 of them, for which two
// stored rows of bf16 are interleaved to VNNI pairs.
#include <olm/kernels/cpu/gemm/pack.h>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of the undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>

#define OLM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace olm::kernels::gemm {
namespace {

/// How elements of type T become words of packed elements.
template <class T, DType packed>
struct Words;

template <>
struct Words<float, f32> {
  static constexpr int64_t kPerWord = 1;
  /// The first n of 16 elements along K, zeros after them.
  OLM_AVX512 static __m512i along_k(const float* p, int64_t n) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
  }
  /// One word along K of n of 16 rows or columns. `next` is the following stored row, where a word
  /// holds two elements and there is one.
  OLM_AVX512 static __m512i across_k(const float* p, const float*, int64_t n) {
    return along_k(p, n);
  }
};

/// The permutation that makes VNNI pairs of two stored rows of 16 elements, the second of which
/// begins at element `second` of its source.
OLM_AVX512 __m512i interleaving(int second) {
  const __m512i twice = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8,
                                         7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_add_epi16(twice, _mm512_set1_epi32(second << 16));
}

template <>
struct Words<bfloat16_t, bf16> {
  static constexpr int64_t kPerWord = 2;
  OLM_AVX512 static __m512i along_k(const bfloat16_t* p, int64_t n) {
    return _mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p);
  }
  OLM_AVX512 static __m512i across_k(const bfloat16_t* p, const bfloat16_t* next, int64_t n) {
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
  OLM_AVX512 static __m512i along_k(const float* p, int64_t n) {
    const auto mask = __mmask32((uint64_t(1) << n) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(__mmask16(mask), p);
    const __m512 high = _mm512_maskz_loadu_ps(__mmask16(mask >> 16), p + 16);
    return rounded(low, high);
  }
  OLM_AVX512 static __m512i across_k(const float* p, const float* next, int64_t n) {
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
  OLM_AVX512 static __m512i along_k(const bfloat16_t* p, int64_t n) {
    return widened(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
  }
  OLM_AVX512 static __m512i across_k(const bfloat16_t* p, const bfloat16_t*, int64_t n) {
    return along_k(p, n);
  }
};

/// Transposes 16 x 16 words in four rounds of shuffles: pairs of 32, 64, 128 and 256 bits.
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

/// How far from the tile at hand memory is prefetched. Where K is contiguous each of 16 stored
/// rows is a stream of its own: 512 bytes, eight lines, further along it. Else the next tile's
/// rows.
constexpr int64_t kPrefetchBytes = 512, kPrefetchTiles = 1;

/// The tile at row or column `i` and element `k` of K. Inside the operand the masks of `full` ones
/// are constant, and cost nothing.
template <class T, DType packed, bool k_contiguous, bool is_a, bool full>
OLM_AVX512 void pack_tile(const Operand& x, int64_t i, int64_t k, Word* to) {
  using W = Words<T, packed>;
  constexpr int64_t kElements = tile_k(packed);
  const int64_t ld = x.matrix.ld;
  const int64_t items = full ? 16 : std::clamp<int64_t>(x.extent - i, 0, 16);
  const int64_t deep = full ? kElements : std::clamp<int64_t>(x.k - k, 0, kElements);
  const T* base = in<T>(x.matrix.data) + (k_contiguous ? i * ld + k : k * ld + i);
  __m512i v[16];
#pragma GCC unroll 16
  for (int64_t r = 0; r < 16; ++r) {
    if constexpr (k_contiguous) {
      v[r] = r < items ? W::along_k(base + r * ld, deep) : _mm512_setzero_si512();
    } else {
      const int64_t at = r * W::kPerWord;
      const T* next = at + 1 < deep ? base + (at + 1) * ld : nullptr;
      v[r] = at < deep && items > 0 ? W::across_k(base + at * ld, next, items)
                                    : _mm512_setzero_si512();
    }
  }
  // A tile's 16 vectors are whole before any is written, so that all 16 loads are under way at
  // once. They run along K where that is contiguous; rows of A's tiles do, those of B's run across.
  if constexpr (k_contiguous != is_a) transpose(v);
#pragma GCC unroll 16
  for (int64_t r = 0; r < 16; ++r) _mm512_store_si512(to + r * 16, v[r]);
}

/// Prefetches what tiles further on are read from. It may lie past the operand: a prefetch never
/// faults.
template <class T, DType packed, bool k_contiguous>
void prefetch_tile(const Operand& x, int64_t i, int64_t k) {
  constexpr int64_t kElements = tile_k(packed), kLine = Prefetch::kLine;
  const T* data = in<T>(x.matrix.data);
  if constexpr (k_contiguous) {
    const char* at = reinterpret_cast<const char*>(data + i * x.matrix.ld + k) + kPrefetchBytes;
    for (int64_t r = 0; r < 16; ++r, at += x.matrix.ld * int64_t(sizeof(T)))
      for (int64_t byte = 0; byte < kElements * int64_t(sizeof(T)); byte += kLine)
        __builtin_prefetch(at + byte);
  } else {
    const T* at = data + (k + kPrefetchTiles * kElements) * x.matrix.ld + i;
    for (int64_t r = 0; r < kElements; ++r, at += x.matrix.ld) __builtin_prefetch(at);
  }
}

/// The tiles of a micro-panel at one place along K.
template <class T, DType packed, bool k_contiguous, bool is_a>
void pack_tiles(const Operand& x, int64_t i, int64_t k, Word* to) {
  const int64_t end = i + x.r;
  for (; i < end; i += 16, to += kTileWords) {
    if (i + 16 > x.extent || k + tile_k(packed) > x.k) {
      pack_tile<T, packed, k_contiguous, is_a, false>(x, i, k, to);
      continue;
    }
    prefetch_tile<T, packed, k_contiguous>(x, i, k);
    pack_tile<T, packed, k_contiguous, is_a, true>(x, i, k, to);
  }
}

/// Follows memory: micro-panels one after another where K is contiguous, else all of them at one
/// place along K before the next, so that stored rows are read in longer runs.
template <class T, DType packed, bool k_contiguous, bool is_a>
void pack_micro_panels(const Operand& x, const PackRange& range, int64_t stride, Word* to) {
  const auto tiles = [&](int64_t panel, int64_t q) {
    pack_tiles<T, packed, k_contiguous, is_a>(x, range.begin + panel * x.r,
                                              range.k + q * tile_k(packed),
                                              to + panel * stride + q * x.tile_words());
  };
  if constexpr (k_contiguous) {
    for (int64_t panel = 0; panel < range.micro_panels; ++panel)
      for (int64_t q = 0; q < range.k_tiles; ++q) tiles(panel, q);
  } else {
    for (int64_t q = 0; q < range.k_tiles; ++q)
      for (int64_t panel = 0; panel < range.micro_panels; ++panel) tiles(panel, q);
  }
}

template <class T, DType packed>
void pack_as(const Operand& x, const PackRange& range, int64_t stride, Word* to) {
  const auto run = x.k_contiguous() ? (x.is_a ? pack_micro_panels<T, packed, true, true>
                                              : pack_micro_panels<T, packed, true, false>)
                                    : (x.is_a ? pack_micro_panels<T, packed, false, true>
                                              : pack_micro_panels<T, packed, false, false>);
  run(x, range, stride, to);
}

}  // namespace

void pack(DType packed, const Operand& operand, const PackRange& range, int64_t stride, Word* to) {
  const auto pack_from = [&]<class T>() {
    const auto run = packed == f32 ? pack_as<T, f32> : pack_as<T, bf16>;
    run(operand, range, stride, to);
  };
  if (operand.matrix.dtype == f32) return pack_from.operator()<float>();
  pack_from.operator()<bfloat16_t>();
}

}  // namespace olm::kernels::gemm
#else
// There is no microkernel to pack for.
void olm::kernels::gemm::pack(DType, const Operand&, const PackRange&, int64_t, Word*) {}
#endif  // x86
