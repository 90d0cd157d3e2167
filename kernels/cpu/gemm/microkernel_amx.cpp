// The microkernel on AMX tiles, and the system's permission to use them.
#include <olm/kernels/cpu/gemm/microkernel_amx-inl.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace olm::kernels::gemm {
namespace {

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

/// All eight registers as 16 rows of 64 bytes.
void configure_tiles() {
  TileConfig config;
  std::fill_n(config.row_bytes, 8, uint16_t(64));
  std::fill_n(config.rows, 8, uint8_t(16));
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
/// A thread that leaves its tiles in use pays for them at every context switch. The epilogue may
/// have made non-temporal stores, hence the fence.
void release_tiles() {
  asm volatile("tilerelease");
  _mm_sfence();
}

constexpr MicroKernel kAmx{
    .name = "AMX",
    .packed = bf16,
    .mr = kAmxSide,
    .nr = kAmxSide,
    // Elements. A micro-panel of either operand is 32 KiB: the one that stays while others pass
    // (blocked.cpp) has room in an L1 of 48 KiB; the others come from L2, hidden behind products.
    .kc = 512,
    .task_nc = 1024,  // at kc, 1 MiB of the packed panel
    .full_tiles = true,
    .enter = configure_tiles,
    .leave = release_tiles,
    .run = multiply_tiles<CpuTiles>};

/// AMX-TILE and AMX-BF16, bits 24 and 22 of CPUID leaf 7.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && ((d >> 22) & 1) && ((d >> 24) & 1);
}

/// Linux gives the use of tiles to processes that ask (arch_prctl, ARCH_REQ_XCOMP_PERM of
/// TILEDATA).
bool tiles_permitted() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

const MicroKernel* amx_microkernel() {
  // Packing rounds f32 by an instruction of AVX512_BF16.
  if (!avx512_microkernel(bf16)) return nullptr;
  static const bool usable = has_amx() && tiles_permitted();
  return usable ? &kAmx : nullptr;
}

}  // namespace olm::kernels::gemm
#else
const olm::kernels::gemm::MicroKernel* olm::kernels::gemm::amx_microkernel() { return nullptr; }
#endif  // x86
