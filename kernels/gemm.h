#pragma once
// General matrix multiplication with the epilogue that usually follows it.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// The pointwise function of an epilogue. `gelu` is the exact form by erf,
/// `gelu_tanh` its usual approximation.
enum class Activation : uint8_t { none, relu, gelu, gelu_tanh, silu, sigmoid, tanh };
inline constexpr Activation kActivations[] = {
    Activation::none, Activation::relu,    Activation::gelu, Activation::gelu_tanh,
    Activation::silu, Activation::sigmoid, Activation::tanh};
/// Prints `gelu_tanh`.
OLM_API const char* name_of(Activation activation);

/// GEMM (row-major), for each of `batch` members:
///   Z = alpha · op(A) · op(B) + bias        C = act(Z) + residual   (+ C where `accumulate`)
/// op(A): [m, k], op(B): [k, n], C, Z, residual: [m, n] with `ldc`; op transposes what is stored.
/// a_dtype, b_dtype and c_dtype are any floats, but f64 goes only with f64. Sums are kept in
/// acc_dtype. Beside a 16-bit operand an f32 one is rounded to its dtype where pairs of that are
/// multiplied, not where they are widened to f32; on CUDA so is an f32 bias to a C of 16 bits. Z is
/// stored, in c_dtype, where `preactivation` is given. A leading dimension of 0 means tight: as
/// long as a stored row. Members of the batch lie at multiples of the batch strides (0 repeats
/// one), or, where the pointer list of an operand is given, where its entries say (lists are host
/// memory, read before run() returns). Throws where sizes or leading dimensions cannot be.
struct Gemm {
  static constexpr const char* name = "gemm";
  DType a_dtype = f32, b_dtype = f32, c_dtype = f32;
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch = 1, a_stride = 0, b_stride = 0, c_stride = 0;
  const void *const *a_list = nullptr, *const *b_list = nullptr;
  void* const* c_list = nullptr;
  double alpha = 1;
  bool accumulate = false;
  const void* bias = nullptr;  ///< [n] of bias_dtype, the same for every member
  DType bias_dtype = f32;
  Activation activation = Activation::none;
  void* preactivation = nullptr;   ///< laid out as C, batches included; not with c_list
  const void* residual = nullptr;  ///< likewise; may be c
  Stream stream = {};
};
/// Throws where its dtypes, sizes or leading dimensions cannot be.
void check(const Gemm&);
OLM_API void run(Cpu, const Gemm&);
/// What multiplies large matrices of this dtype on this CPU: "AVX-512", "AVX-512 BF16", "AMX",
/// "OpenBLAS".
OLM_API const char* gemm_kernels(DType dtype);
OLM_API void run(Cuda, const Gemm&);

/// Backward of bias and activation:  dz = dy · act'(z)      dbias[c] = Σ_r dz[r,c]
/// dy, z, dz: [rows, cols] of `dtype`; z and dz are contiguous, rows of dy lie at multiples of
/// dy_stride elements (0 means tight: cols); dz may be a tight dy. Without an activation z and dz
/// are null and dz is dy. dbias: [cols] in acc_dtype, or null; summed in an order fixed by shape,
/// and added to what is there where `accumulate`.
struct GemmEpilogueBackward {
  static constexpr const char* name = "gemm epilogue backward";
  DType dtype = f32;
  const void *dy = nullptr, *z = nullptr;
  void *dz = nullptr, *dbias = nullptr;
  int64_t rows = 0, cols = 0, dy_stride = 0;
  Activation activation = Activation::none;
  bool accumulate = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const GemmEpilogueBackward&);
OLM_API void run(Cuda, const GemmEpilogueBackward&);

}  // namespace olm::kernels
