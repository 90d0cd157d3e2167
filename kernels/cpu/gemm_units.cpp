// The units that multiply packed tiles, and which of them this CPU has, by its feature bits.
#include <olm/kernels/base/instruction_set.h>
#include <olm/kernels/cpu/bf16_instructions.h>
#include <olm/kernels/cpu/gemm_amx-inl.h>

#include <algorithm>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace olm::kernels::gemm_tiles {
namespace {

// ---- 512-bit vectors ----------------------------------------------------------------------------
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

constexpr int kRows = 6, kVectors = 4;  // of a block in registers: 24 sums, 4 of B, 1 of A

/// R rows by V vectors of columns in registers: per word of the depth V vectors of B, and each of
/// A's words broadcast against them.
template <class Multiply, int R, int V>
OLM_AVX512 void multiply_rows(const Rows& rows, const Word* b, int64_t steps, const Sums& sums,
                              Ahead& ahead, int64_t lines) {
  const Word* a = rows.at;
  const int64_t stride = rows.row, ldc = sums.row;
  float* c = sums.at;
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      sum[r][v] = sums.add ? _mm512_loadu_ps(c + r * ldc + 16 * v) : _mm512_setzero_ps();
  if (!sums.past_caches) {
    const float* soon = sums.add ? c + R * ldc : c;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) __builtin_prefetch(soon + r * ldc + v * 16, 0, 2);
  }
  for (int64_t q = 0; q < steps; ++q, a += rows.step, b += kVectors * kTile) {
    ahead.ask(lines);
    for (int r = 0; r < R; ++r) __builtin_prefetch(a + stride * (R + r));  // of the next rows
    for (int p = 0; p < 16; ++p) {
      __m512i columns[V];
      for (int v = 0; v < V; ++v) columns[v] = _mm512_load_si512(b + v * kTile + 16 * p);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        int word;
        __builtin_memcpy(&word, a + stride * r + p, sizeof word);
        const __m512i both = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = Multiply::add(sum[r][v], both, columns[v]);
      }
    }
  }
  if (sums.past_caches) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) _mm512_stream_ps(c + r * ldc + 16 * v, sum[r][v]);
  } else {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
  }
}

template <class Multiply, int R>
void multiply_columns(const Rows& a, const Word* b, int64_t steps, const Sums& c, int64_t columns,
                      Ahead& ahead, int64_t lines) {
  const auto multiply = columns > 48   ? multiply_rows<Multiply, R, 4>
                        : columns > 32 ? multiply_rows<Multiply, R, 3>
                        : columns > 16 ? multiply_rows<Multiply, R, 2>
                                       : multiply_rows<Multiply, R, 1>;
  multiply(a, b, steps, c, ahead, lines);
}

template <class Multiply>
void vector_block(const Rows& a, const Word* b, int64_t steps, const Sums& c, int64_t rows,
                  int64_t columns, Ahead& ahead) {
  const int64_t all_steps = std::max<int64_t>(1, (rows + kRows - 1) / kRows * steps);
  const int64_t lines = (ahead.lines + all_steps - 1) / all_steps;
  int64_t r = 0;
  const auto run = [&]<int R>() {
    for (; r + R <= rows; r += R) {
      Rows from = a;
      from.at += r * a.row;
      Sums to = c;
      to.at += r * c.row;
      multiply_columns<Multiply, R>(from, b, steps, to, columns, ahead, lines);
    }
  };
  run.template operator()<kRows>();
  run.template operator()<4>();
  run.template operator()<2>();
  run.template operator()<1>();
}

/// What went past the caches comes before what follows.
void end_stores() { _mm_sfence(); }

constexpr Unit kF32{.name = "AVX-512",
                    .packed = f32,
                    .rows = 8 * kRows,
                    .columns = 16 * kVectors,
                    .depth = 768,
                    .inner = 1024,
                    .leave = end_stores,
                    .run = vector_block<MultiplyF32>};
constexpr Unit kDot{.name = "AVX-512 BF16",
                    .packed = bf16,
                    .rows = 8 * kRows,
                    .columns = 16 * kVectors,
                    .depth = 1536,
                    .inner = 1024,
                    .leave = end_stores,
                    .run = vector_block<MultiplyBf16>};

// ---- AMX ----------------------------------------------------------------------------------------
/// The instructions on tile registers 0 to 7. (The compiler's intrinsics want literal numbers.)
struct CpuTiles {
  template <int t>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(t));
  }
  template <int t>
  static void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(t) : "memory");
  }
  template <int t>
  static void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(t) : "memory");
  }
  template <int sum, int a, int b>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b));
  }
};

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

void enter_tiles() {
  TileConfig config;
  std::fill_n(config.row_bytes, 8, uint16_t(64));
  std::fill_n(config.rows, 8, uint8_t(16));
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
void leave_tiles() {
  asm volatile("tilerelease");
  end_stores();
}

void tile_block(const Rows& a, const Word* b, int64_t steps, const Sums& c, int64_t, int64_t,
                Ahead& ahead) {
  amx_block<CpuTiles>(a, b, steps, c, ahead);
}

constexpr Unit kAmx{.name = "AMX",
                    .packed = bf16,
                    .rows = 32,
                    .columns = 32,
                    .depth = 512,
                    .inner = 1024,
                    .whole = true,
                    .enter = enter_tiles,
                    .leave = leave_tiles,
                    .run = tile_block};

// ---- choice -------------------------------------------------------------------------------------
/// Linux gives the use of tiles to processes that ask (arch_prctl, ARCH_REQ_XCOMP_PERM of
/// TILEDATA).
bool tiles_permitted() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

/// Bits of CPUID's leaf 7 that say what multiplies bf16.
struct Features {
  bool tiles = false;       // AMX-TILE and AMX-BF16
  bool slow_pairs = false;  // f32 FMA is faster than products of pairs in vectors
};

/// Intel's cores with AVX512_FP16, from Sapphire to Granite Rapids, leave bf16 to AMX: where a
/// system hides that, a vector's products of pairs take two cycles, in which FMA does twice as many
/// of f32. Later cores of both makers have AVX-NE-CONVERT too. Bits, and no measurement, decide, so
/// that results are the same in every run.
Features features() {
  Features f;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.tiles = ((d >> 22) & 1) && ((d >> 24) & 1);
  const bool fp16 = (d >> 23) & 1;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return f;
  f.slow_pairs = fp16 && !((d >> 5) & 1);
  return f;
}

}  // namespace

const Unit* pair_unit() {
  if (instruction_set() < InstructionSet::avx512 || !has_avx512_bf16()) return nullptr;
  static const bool tiles = features().tiles && tiles_permitted();
  return tiles ? &kAmx : &kDot;
}

const Unit* best_unit(DType operands) {
  if (instruction_set() < InstructionSet::avx512) return nullptr;
  if (operands == f32) return &kF32;
  static const bool slow_pairs = features().slow_pairs;
  const Unit* pairs = pair_unit();
  return !pairs || (pairs == &kDot && slow_pairs) ? &kF32 : pairs;
}

}  // namespace olm::kernels::gemm_tiles
#else
namespace olm::kernels::gemm_tiles {
const Unit* pair_unit() { return nullptr; }
const Unit* best_unit(DType) { return nullptr; }
}  // namespace olm::kernels::gemm_tiles
#endif  // x86

const olm::kernels::gemm_tiles::Unit* olm::kernels::gemm_tiles::unit_for(
    const gemm_internal::Product& p) {
  const DType a = p.a.dtype, b = p.b.dtype;
  const auto fits = [](DType t) { return t == bf16 || t == f32; };
  if (!fits(a) || !fits(b) || std::min(p.m, p.n) < 8) return nullptr;
  if (double(p.m) * double(p.n) * double(p.k) < 65536) return nullptr;
  return best_unit(a == f32 && b == f32 ? f32 : bf16);
}
