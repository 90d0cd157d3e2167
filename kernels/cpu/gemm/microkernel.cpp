// Which microkernel this CPU multiplies with: by its feature bits and not by measurement, so that
// results are the same in every run.
#include <olm/kernels/cpu/gemm/microkernel.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace olm::kernels::gemm {
namespace {

/// True where FMA of f32 is faster than VDPBF16PS. Intel's cores with AVX512_FP16, from Sapphire to
/// Granite Rapids, leave bf16 to AMX: where a system hides that, a vector's products of pairs take
/// two cycles, in which FMA does twice as many of f32. Later cores of both makers have
/// AVX-NE-CONVERT too.
bool has_slow_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool fp16 = (d >> 23) & 1;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool ne_convert = (d >> 5) & 1;
  return fp16 && !ne_convert;
#else
  return false;
#endif
}

}  // namespace

const MicroKernel* bf16_microkernel() {
  const MicroKernel* amx = amx_microkernel();
  return amx ? amx : avx512_microkernel(bf16);
}

const MicroKernel* best_microkernel(DType operands) {
  const MicroKernel* wide = avx512_microkernel(f32);
  if (operands == f32) return wide;
  const MicroKernel* vectors = avx512_microkernel(bf16);
  const MicroKernel* pairs = bf16_microkernel();
  static const bool slow_bf16 = has_slow_bf16();
  return !pairs || (pairs == vectors && slow_bf16) ? wide : pairs;
}

}  // namespace olm::kernels::gemm
