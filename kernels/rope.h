#pragma once
// Contract of the rotary position embedding kernel.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Which dimensions of a head RoPE rotates together, as pair i of r/2.
enum class RopePairing : uint8_t {
  interleaved,  ///< 2i and 2i + 1, as in the paper
  halves,       ///< i and i + r/2, as Hugging Face's weights want it
};

/// RoPE (Su et al. 2021, arXiv:2104.09864). With p the position of token (b,t) and m, n the
/// dimensions of pair i:
///   y[b,t,h,m] = x[b,t,h,m] · cos[p,i] - x[b,t,h,n] · sin[p,i]
///   y[b,t,h,n] = x[b,t,h,m] · sin[p,i] + x[b,t,h,n] · cos[p,i]      for i < rotated / 2
/// and y = x for the dimensions from `rotated` (even) on. `inverse` takes -sin for sin, which is
/// the gradient. x: [batch, time, heads, head_dim] of `dtype` with strides in elements, dense in
/// the last dimension; y: contiguous. In acc_dtype: cos, sin [max_position, rotated / 2].
/// positions: i64 [batch, time]; null: p = t + offset. A position outside the table is an
/// error: the CPU throws it, other devices report it (Stream::fault) and leave that token out.
struct Rope {
  static constexpr const char* name = "rope";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t stride_batch = 0, stride_time = 0, stride_head = 0;
  const void* cos = nullptr;
  const void* sin = nullptr;
  const int64_t* positions = nullptr;
  int64_t offset = 0;
  int64_t batch = 0, time = 0, heads = 0, head_dim = 0, rotated = 0, max_position = 0;
  bool inverse = false;
  RopePairing pairing = RopePairing::interleaved;
  Stream stream = {};
};
/// Throws unless positions that are not given, t + offset, are in the table.
inline void check_offset(const Rope& k) {
  if (k.positions || k.batch == 0 || k.time == 0) return;
  require(k.offset >= 0 && k.offset + k.time <= k.max_position, "rope: positions ", k.offset,
          " to ", k.offset + k.time - 1, " are outside the table of ", k.max_position,
          " positions");
}
OLM_API void run(Cpu, const Rope&);
OLM_API void run(Cuda, const Rope&);

}  // namespace olm::kernels
