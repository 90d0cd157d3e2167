#include <olm/kernels/cpu/gemm/members.h>

#include <olm/kernels/cpu/gemm/blocked.h>
#include <olm/kernels/cpu/gemm/cblas.h>
#include <olm/kernels/cpu/gemm/small_m.h>

namespace olm::kernels::gemm {
namespace {
// Less than these a microkernel does not gain by: a side of C that leaves most of its tile empty,
// and multiplications fewer than packing and tasks cost.
constexpr int64_t kMinSide = 8;
constexpr double kMinMultiplications = 65536;
}  // namespace

const MicroKernel* microkernel_for(const Problem& p) {
  const DType a = p.a.dtype, b = p.b.dtype;
  const auto fits = [](DType t) { return t == bf16 || t == f32; };
  if (!fits(a) || !fits(b) || std::min(p.m, p.n) < kMinSide) return nullptr;
  if (double(p.m) * double(p.n) * double(p.k) < kMinMultiplications) return nullptr;
  return best_microkernel(a == f32 && b == f32 ? f32 : bf16);
}

void run_member(const Problem& p, bool cut, const Stream& stream) {
  if (is_small_m(p)) return run_small_m(p, stream);
  if (const MicroKernel* kernel = microkernel_for(p)) return run_blocked(*kernel, p, stream);
  cut ? run_cblas(p, stream) : run_cblas_whole(p, stream);
}

void check_dtypes(const char* name, DType a, DType b, DType c) {
  const auto wide = [](DType t) { return t == f64; };
  require(is_float(a) && is_float(b) && is_float(c), name, ": wanted float matrices, got ", a, ", ",
          b, " and ", c);
  require(wide(a) == wide(b) && wide(a) == wide(c), name, ": f64 goes only with f64, got ", a, ", ",
          b, " and ", c);
}

}  // namespace olm::kernels::gemm
