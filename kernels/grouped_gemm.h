#pragma once
// Contract of GEMM over groups of rows, each with a matrix of its own.
#include <olm/kernels/gemm.h>

namespace olm::kernels {

/// For each group g of rows r in [offsets[g], offsets[g+1]), row-major and tight:
///   Z[r] = A[r] · op(B_g) + bias_g        C[r] = act(Z[r])
///   A: [rows, k]    B_g: [k, n], or [n, k] where `transpose_b`    C, Z: [rows, n]
/// and `by_depth`, where groups cut the depth, the gradient of op(B_g):
///   C_g = Σ_r A[r]ᵀ · B[r]   (+ C_g where accumulate[g])
///   A: [rows, k]    B: [rows, n]    C_g: [k, n]
/// `rows` is the capacity, what the host knows; offsets, in device memory, never fall, and rows
/// from offsets[groups] on are neither read nor written. A group without rows has C_g = 0, or
/// leaves it as it is where accumulate[g]. Dtypes are as in Gemm. Lists are host memory, read
/// before run() returns; what they point to is device memory. A null entry of c_list leaves that
/// group out.
struct GroupedGemm {
  static constexpr const char* name = "grouped_gemm";
  DType a_dtype = f32, b_dtype = f32, c_dtype = f32;
  const void* a = nullptr;
  const void* b = nullptr;              ///< by_depth
  const void* const* b_list = nullptr;  ///< host [groups]; not by_depth
  void* c = nullptr;                    ///< not by_depth
  void* const* c_list = nullptr;        ///< host [groups]; by_depth
  bool transpose_b = false, by_depth = false;
  const int32_t* offsets = nullptr;  ///< [groups + 1]
  int64_t groups = 0, rows = 0, n = 0, k = 0;
  const bool* accumulate = nullptr;        ///< host [groups], or null: false; by_depth
  const void* const* bias_list = nullptr;  ///< host [groups] of [n], or null; not by_depth
  DType bias_dtype = f32;
  Activation activation = Activation::none;  ///< not by_depth
  void* preactivation = nullptr;             ///< Z, in c_dtype, or null
  Stream stream = {};
};
/// Throws where its dtypes or sizes cannot be; offsets are not looked at.
void check(const GroupedGemm&);
OLM_API void run(Cpu, const GroupedGemm&);
OLM_API void run(Cuda, const GroupedGemm&);

/// Backward of biases and activation: GemmEpilogueBackward on the rows of each group.
///   dz = dy · act'(z)      dbias_g[c] = Σ_r dz[r,c]   (+ dbias_g where accumulate[g])
/// dy, z, dz: [rows, cols] of `dtype`; dz may be dy. Without an activation z and dz are null and dz
/// is dy. dbias_list: host [groups] of [cols] in acc_dtype, or null; a null entry is left out.
struct GroupedGemmEpilogueBackward {
  static constexpr const char* name = "grouped_gemm epilogue backward";
  DType dtype = f32;
  const void *dy = nullptr, *z = nullptr;
  void* dz = nullptr;
  void* const* dbias_list = nullptr;
  const bool* accumulate = nullptr;  ///< host [groups], or null: false
  const int32_t* offsets = nullptr;  ///< [groups + 1]
  int64_t groups = 0, rows = 0, cols = 0;
  Activation activation = Activation::none;
  Stream stream = {};
};
OLM_API void run(Cpu, const GroupedGemmEpilogueBackward&);
OLM_API void run(Cuda, const GroupedGemmEpilogueBackward&);

}  // namespace olm::kernels
