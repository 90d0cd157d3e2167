// cuBLASLt of the emulator: the CPU's GEMM, queued on the stream like any launch. It refuses what
// the library does not promise, so that tests meet the way around it: 16-bit rows that do not begin
// at multiples of 4 bytes.
#include <cstring>

#include <olm/kernels/gemm.h>
#include <tests/cuda_emulator/api_call.h>
#include <olm/kernels/cuda/cublas_lt.cuh>

struct cublasLtContext {};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  int64_t rows, cols, ld;
  int32_t batch = 1;
  int64_t stride = 0;
};
struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_ld = 0;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C and D
};

namespace {

using olm::DType;
using olm::kernels::Activation;
using olm::kernels::Gemm;

template <class T>
cublasStatus_t take(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T, class... A>
cublasStatus_t make(T** to, A... arguments) {
  *to = new T{arguments...};
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t destroy(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

DType dtype_of(cudaDataType t) {
  return t == CUDA_R_16BF ? olm::bf16 : t == CUDA_R_16F ? olm::f16 : olm::f32;
}

bool has(const cublasLtMatmulDescOpaque_t& operation, cublasLtEpilogue_t part) {
  return (operation.epilogue & part) == part;
}

cublasStatus_t set_layout(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                          const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return take(layout->batch, value, bytes);
  return take(layout->stride, value, bytes);
}

cublasStatus_t set_operation(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t what,
                             const void* value, size_t bytes) {
  switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(operation->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(operation->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return take(operation->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return take(operation->aux_ld, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t set_preference(cublasLtMatmulPreference_t preference,
                              cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                              size_t bytes) {
  const int operand = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
  return operand < 0 ? CUBLAS_STATUS_SUCCESS : take(preference->alignment[operand], value, bytes);
}

/// Rows and columns of op(X).
int64_t rows_of(const cublasLtMatrixLayoutOpaque_t& x, cublasOperation_t op) {
  return op == CUBLAS_OP_T ? x.cols : x.rows;
}
int64_t cols_of(const cublasLtMatrixLayoutOpaque_t& x, cublasOperation_t op) {
  return op == CUBLAS_OP_T ? x.rows : x.cols;
}

/// Whether the matrices fit each other.
bool is_valid(const cublasLtMatmulDescOpaque_t& operation, const cublasLtMatrixLayoutOpaque_t& a,
              const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& d) {
  const auto fits = [&](const cublasLtMatrixLayoutOpaque_t& x) {
    return x.rows > 0 && x.cols > 0 && x.ld >= x.rows && x.batch == d.batch;
  };
  return fits(a) && fits(b) && fits(d) && rows_of(a, operation.transpose_a) == d.rows &&
         cols_of(b, operation.transpose_b) == d.cols &&
         cols_of(a, operation.transpose_a) == rows_of(b, operation.transpose_b) &&
         a.type == b.type && (d.type == a.type || d.type == CUDA_R_32F) &&
         (!has(operation, CUBLASLT_EPILOGUE_GELU_AUX) ||
          (operation.aux && operation.aux_ld >= d.rows && operation.aux_ld % 8 == 0)) &&
         (!has(operation, CUBLASLT_EPILOGUE_BIAS) || operation.bias);
}

cublasStatus_t find_algorithm(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                              cublasLtMatmulPreference_t preference, int,
                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  *count = 0;
  if (!is_valid(*operation, *a, *b, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  for (const uint32_t bytes : preference->alignment)
    if (bytes < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const cublasLtMatrixLayout_t x : {a, b, d})
    if (x->type != CUDA_R_32F && (x->ld % 2 != 0 || x->stride % 2 != 0))
      return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  results[0].workspaceSize = 1024;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

/// The row-major GEMM that this column-major one is: operands change places.
Gemm row_major(const cublasLtMatmulDescOpaque_t& operation, const void* a,
               const cublasLtMatrixLayoutOpaque_t& of_a, const void* b,
               const cublasLtMatrixLayoutOpaque_t& of_b, void* d,
               const cublasLtMatrixLayoutOpaque_t& of_d) {
  Gemm g;
  g.a_dtype = dtype_of(of_b.type);
  g.b_dtype = dtype_of(of_a.type);
  g.c_dtype = g.bias_dtype = dtype_of(of_d.type);
  g.a = b;
  g.b = a;
  g.c = d;
  g.transpose_a = operation.transpose_b == CUBLAS_OP_T;
  g.transpose_b = operation.transpose_a == CUBLAS_OP_T;
  g.m = of_d.cols;
  g.n = of_d.rows;
  g.k = rows_of(of_b, operation.transpose_b);
  g.lda = of_b.ld;
  g.ldb = of_a.ld;
  g.ldc = of_d.ld;
  g.batch = of_d.batch;
  g.a_stride = of_b.stride;
  g.b_stride = of_a.stride;
  g.c_stride = of_d.stride;
  if (has(operation, CUBLASLT_EPILOGUE_BIAS)) g.bias = operation.bias;
  if (has(operation, CUBLASLT_EPILOGUE_GELU)) g.activation = Activation::gelu_tanh;
  if (has(operation, CUBLASLT_EPILOGUE_GELU_AUX)) g.preactivation = operation.aux;
  return g;
}

cublasStatus_t multiply(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                        const void* a, cublasLtMatrixLayout_t of_a, const void* b,
                        cublasLtMatrixLayout_t of_b, const void* beta, const void* c,
                        cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t of_d,
                        const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  if (!is_valid(*operation, *of_a, *of_b, *of_d)) return CUBLAS_STATUS_INVALID_VALUE;
  Gemm g = row_major(*operation, a, *of_a, b, *of_b, d, *of_d);
  g.alpha = *static_cast<const float*>(alpha);
  if (*static_cast<const float*>(beta) != 0) {
    if (c == d) g.accumulate = true;
    if (c != d) g.residual = c;
  }
  using namespace olm::cuda_emulator;
  const cudaError_t status = with_stream(stream, [&](CUstream_st& found) {
    enqueue(found, HostWork{[g] { olm::kernels::run(olm::kernels::Cpu{}, g); }});
    return cudaSuccess;
  });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

namespace olm::kernels {

std::string cublas_lt_path() { return "the emulator's"; }
std::string cublas_lt_why_not() { return {}; }

const CublasLt& cublas_lt() {
  static const CublasLt functions{
      .create = [](cublasLtHandle_t* handle) { return make(handle); },
      .status_string =
          [](cublasStatus_t status) {
            return status == CUBLAS_STATUS_SUCCESS ? "success" : "the emulator's cuBLASLt failed";
          },
      .layout_create =
          [](cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols,
             int64_t ld) { return make(layout, type, int64_t(rows), int64_t(cols), ld); },
      .layout_destroy = [](cublasLtMatrixLayout_t layout) { return destroy(layout); },
      .layout_set = set_layout,
      .matmul_create = [](cublasLtMatmulDesc_t* operation, cublasComputeType_t,
                          cudaDataType_t) { return make(operation); },
      .matmul_destroy = [](cublasLtMatmulDesc_t operation) { return destroy(operation); },
      .matmul_set = set_operation,
      .preference_create = [](cublasLtMatmulPreference_t* preference) { return make(preference); },
      .preference_destroy =
          [](cublasLtMatmulPreference_t preference) { return destroy(preference); },
      .preference_set = set_preference,
      .heuristic = find_algorithm,
      .matmul = multiply};
  return functions;
}

}  // namespace olm::kernels
