// The microkernels on 512-bit vectors: outer products in registers, one word of K at a time. For
// bf16 a word is a pair, and VDPBF16PS adds both products.
#include <olm/kernels/cpu/gemm/microkernel.h>

#if defined(__x86_64__)
#include <immintrin.h>

#include <olm/kernels/base/instruction_set.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/cpu/bf16_instructions.h>

namespace olm::kernels::gemm {
namespace {

#define OLM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

/// sum + the products of the words of a and b.
struct MultiplyF32 {
  OLM_AVX512 static __m512 add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};
struct MultiplyBf16 {
  // By name: the intrinsic wants its callers, which f32 shares, to be compiled for AVX512_BF16.
  OLM_AVX512 static __m512 add(__m512 sum, __m512i a, __m512i b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

// The register tile, 6 x 64: of 32 registers 24 hold sums, 4 a row of B, 1 a broadcast word of A.
// Two FMA units of a latency of 4 need 8 chains; 24 make do with 10 loads for 24 FMAs.
constexpr int kRows = 6, kVectors = 4;

/// R rows by V vectors of C in registers. R and V are less than the register tile at edges.
template <class Multiply, int R, int V>
OLM_AVX512 void register_tile(const AMicroPanel& panel, const Word* b, int64_t k_tiles,
                              const CTile& tile, Prefetch& prefetch, int64_t lines) {
  const Word* a = panel.data;
  const int64_t lda = panel.row_stride, ldc = tile.ld;
  float* c = tile.data;
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      sum[r][v] = tile.accumulate ? _mm512_loadu_ps(c + r * ldc + 16 * v) : _mm512_setzero_ps();
  // C to L2 before it is written; where it is read too, the rows of the next register tile, since
  // these have just been read.
  if (!tile.non_temporal) {
    const float* soon = tile.accumulate ? c + R * ldc : c;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) __builtin_prefetch(soon + r * ldc + v * 16, 0, 2);
  }
  for (int64_t q = 0; q < k_tiles; ++q, a += panel.tile_stride, b += kVectors * kTileWords) {
    prefetch.next(lines);
    for (int r = 0; r < R; ++r) __builtin_prefetch(a + lda * (R + r));  // the next rows, to L1
    for (int p = 0; p < 16; ++p) {
      __m512i columns[V];
      for (int v = 0; v < V; ++v) columns[v] = _mm512_load_si512(b + v * kTileWords + 16 * p);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        int word;
        __builtin_memcpy(&word, a + lda * r + p, sizeof word);
        const __m512i broadcast = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = Multiply::add(sum[r][v], broadcast, columns[v]);
      }
    }
  }
  if (tile.non_temporal) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) _mm512_stream_ps(c + r * ldc + 16 * v, sum[r][v]);
  } else {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
  }
}

template <class Multiply, int R>
void register_rows(const AMicroPanel& a, const Word* b, int64_t k_tiles, const CTile& c,
                   Prefetch& prefetch, int64_t lines) {
  const auto multiply = c.cols > 48   ? register_tile<Multiply, R, 4>
                        : c.cols > 32 ? register_tile<Multiply, R, 3>
                        : c.cols > 16 ? register_tile<Multiply, R, 2>
                                      : register_tile<Multiply, R, 1>;
  multiply(a, b, k_tiles, c, prefetch, lines);
}

/// The C tile of a call, register tile by register tile down the rows: for each B's micro-panel
/// comes from L2 again, while A's next rows go from L2 to L1.
template <class Multiply>
void run(const AMicroPanel& a, const Word* b, int64_t k_tiles, const CTile& c, Prefetch& prefetch) {
  const int64_t lines = ceil_div(prefetch.lines, ceil_div(c.rows, kRows) * k_tiles);
  int64_t r = 0;
  const auto rows = [&]<int R>() {
    for (; r + R <= c.rows; r += R) {
      AMicroPanel from = a;
      from.data += r * a.row_stride;
      CTile to = c;
      to.data += r * c.ld;
      register_rows<Multiply, R>(from, b, k_tiles, to, prefetch, lines);
    }
  };
  rows.template operator()<kRows>();
  rows.template operator()<4>();
  rows.template operator()<2>();
  rows.template operator()<1>();
}

/// Non-temporal stores come before what follows.
void store_fence() { _mm_sfence(); }

constexpr MicroKernel kF32{
    .name = "AVX-512",
    .packed = f32,
    // The least common multiple of the 6 rows of a register tile and the 16 of a packed tile.
    .mr = 48,
    .nr = 16 * kVectors,
    // Elements. Long, so that C is read and written seldom: once for 768 FMAs a vector. Yet a
    // micro-panel of B, 192 KiB, stays in an L2 of 1 MiB beside the block of A, a quarter of it
    // (plan.cpp), and the 6 rows of A that are prefetched for the next register tile, 18 KiB, in
    // an L1 of 32 KiB.
    .kc = 768,
    // At kc, 3 MiB of the packed panel: what a core can hold as its share of L3.
    .task_nc = 1024,
    .leave = store_fence,
    .run = run<MultiplyF32>};
constexpr MicroKernel kBf16{.name = "AVX-512 BF16",
                            .packed = bf16,
                            .mr = 48,
                            .nr = 16 * kVectors,
                            .kc = 1536,  // elements of half the size: the same bytes
                            .task_nc = 1024,
                            .leave = store_fence,
                            .run = run<MultiplyBf16>};

}  // namespace

const MicroKernel* avx512_microkernel(DType packed) {
  if (instruction_set() < InstructionSet::avx512) return nullptr;
  if (packed == f32) return &kF32;
  return has_avx512_bf16() ? &kBf16 : nullptr;
}

}  // namespace olm::kernels::gemm
#else
const olm::kernels::gemm::MicroKernel* olm::kernels::gemm::avx512_microkernel(DType) {
  return nullptr;
}
#endif  // x86
