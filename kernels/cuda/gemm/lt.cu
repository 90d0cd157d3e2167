// GEMM by cuBLASLt, which is column-major: it is asked for Cᵀ = op(B)ᵀ · op(A)ᵀ, in which every
// row-major matrix is itself. The algorithm is the first that the library's heuristic names for
// shape, dtypes and alignment, and is kept, so that equal calls give equal bits; of algorithms that
// cut the depth it may name those whose parts meet in f32 in the workspace. f32 is multiplied as
// f32: no TF32 is allowed.
#include <array>
#include <map>
#include <memory>
#include <mutex>

#include <olm/kernels/cuda/check.cuh>
#include <olm/kernels/cuda/cublas_lt.cuh>
#include <olm/kernels/cuda/gemm/lt.cuh>

namespace olm::kernels::cuda_gemm {
namespace {

constexpr size_t kWorkspace = size_t(32) << 20;
constexpr int64_t kAlignment = 16;  // bytes: more helps no algorithm

/// `call` as it stands in the source, of which the sentence has the function.
void check_lt(cublasStatus_t status, std::string_view call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  const size_t name = call.find('.') + 1;
  fail("cuda: cuBLASLt's ", call.substr(name, call.find('(', name) - name), ": ",
       cublas_lt().status_string(status));
}
#define OLM_LT_CHECK(call) check_lt(call, #call)

cudaDataType_t type_of(DType t) {
  return t == bf16 ? CUDA_R_16BF : t == f16 ? CUDA_R_16F : CUDA_R_32F;
}

/// The address, as far as algorithms depend on it.
int64_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  int64_t alignment = 1;
  while (alignment < kAlignment && address % (2 * uintptr_t(alignment)) == 0) alignment *= 2;
  return alignment;
}

cublasLtEpilogue_t epilogue_of(const Gemm& g) {
  const bool gelu = g.activation == Activation::gelu_tanh, aux = g.preactivation != nullptr;
  if (g.bias && gelu) return aux ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_BIAS;
  if (gelu) return aux ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU;
  return g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/// What is added to the sums, weighted by 1; null: nothing.
const void* addend_of(const Gemm& g) { return g.accumulate ? g.c : g.residual; }

class Layout {
 public:
  /// Rows of `width` elements, as the library sees them: columns.
  Layout(DType t, int64_t width, int64_t rows, int64_t ld, const Gemm& g, int64_t stride)
      : lt_(cublas_lt()) {
    OLM_LT_CHECK(lt_.layout_create(&layout_, type_of(t), uint64_t(width), uint64_t(rows), ld));
    if (g.batch == 1) return;
    const auto batch = int32_t(g.batch);
    OLM_LT_CHECK(
        lt_.layout_set(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
    OLM_LT_CHECK(lt_.layout_set(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                sizeof(stride)));
  }
  ~Layout() { lt_.layout_destroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  const CublasLt& lt_;
  cublasLtMatrixLayout_t layout_ = nullptr;
};

/// What is multiplied and how, with the pointers of one call.
class Operation {
 public:
  explicit Operation(const Gemm& g) : lt_(cublas_lt()) {
    OLM_LT_CHECK(lt_.matmul_create(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const auto flag = [](bool t) { return t ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(CUBLASLT_MATMUL_DESC_TRANSA, flag(g.transpose_b));
    set(CUBLASLT_MATMUL_DESC_TRANSB, flag(g.transpose_a));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(g));
    if (g.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    if (!g.preactivation) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.preactivation);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.ldc);
  }
  ~Operation() { lt_.matmul_destroy(operation_); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  operator cublasLtMatmulDesc_t() const { return operation_; }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    OLM_LT_CHECK(lt_.matmul_set(operation_, attribute, &value, sizeof(value)));
  }
  const CublasLt& lt_;
  cublasLtMatmulDesc_t operation_ = nullptr;
};

class Preference {
 public:
  explicit Preference(const Gemm& g) : lt_(cublas_lt()) {
    OLM_LT_CHECK(lt_.preference_create(&preference_));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(alignment_of(g.b)));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(alignment_of(g.a)));
    const void* addend = addend_of(g) ? addend_of(g) : g.c;
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(alignment_of(addend)));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(alignment_of(g.c)));
  }
  ~Preference() { lt_.preference_destroy(preference_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  operator cublasLtMatmulPreference_t() const { return preference_; }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    OLM_LT_CHECK(lt_.preference_set(preference_, attribute, &value, sizeof(value)));
  }
  const CublasLt& lt_;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

/// All that a GEMM has but its pointers.
struct Plan {
  explicit Plan(const Gemm& g)
      : a(g.a_dtype, g.transpose_a ? g.m : g.k, g.transpose_a ? g.k : g.m, g.lda, g, g.a_stride),
        b(g.b_dtype, g.transpose_b ? g.k : g.n, g.transpose_b ? g.n : g.k, g.ldb, g, g.b_stride),
        c(g.c_dtype, g.n, g.m, g.ldc, g, g.c_stride) {}
  Layout a, b, c;
  cublasLtMatmulHeuristicResult_t chosen = {};
  bool found = false;
};

using Key = std::array<int64_t, 24>;
Key key_of(const Gemm& g, int card) {
  const bool batched = g.batch > 1;
  return {card,
          int64_t(g.a_dtype),
          int64_t(g.c_dtype),
          g.transpose_a,
          g.transpose_b,
          g.m,
          g.n,
          g.k,
          g.lda,
          g.ldb,
          g.ldc,
          g.batch,
          batched ? g.a_stride : 0,
          batched ? g.b_stride : 0,
          batched ? g.c_stride : 0,
          int64_t(epilogue_of(g)),
          addend_of(g) == nullptr,
          addend_of(g) == g.c,
          alignment_of(g.a),
          alignment_of(g.b),
          alignment_of(g.c),
          alignment_of(addend_of(g)),
          alignment_of(g.bias),
          alignment_of(g.preactivation)};
}

/// The card's plans, and its handle of the library; kept while the program lives.
class Plans {
 public:
  cublasLtHandle_t handle(int card) {
    std::lock_guard lock(mutex_);
    return handle_of(card);
  }
  const Plan& find(const Gemm& g, int card, const Operation& operation) {
    std::lock_guard lock(mutex_);
    std::unique_ptr<Plan>& plan = plans_[key_of(g, card)];
    if (plan) return *plan;
    auto made = std::make_unique<Plan>(g);
    int count = 0;
    // An error is the library's way to say that it has none, as is a count of 0.
    const cublasStatus_t status =
        cublas_lt().heuristic(handle_of(card), operation, made->b, made->a, made->c, made->c,
                              Preference(g), 1, &made->chosen, &count);
    made->found = status == CUBLAS_STATUS_SUCCESS && count == 1 &&
                  made->chosen.state == CUBLAS_STATUS_SUCCESS;
    plan = std::move(made);
    return *plan;
  }

 private:
  cublasLtHandle_t handle_of(int card) {
    cublasLtHandle_t& handle = handles_[card];
    if (!handle) OLM_LT_CHECK(cublas_lt().create(&handle));
    return handle;
  }
  std::mutex mutex_;
  std::map<int, cublasLtHandle_t> handles_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};
Plans& plans() {
  // Never destroyed: the library may be unloaded earlier.
  static auto& all = *new Plans;
  return all;
}

}  // namespace

bool lt_takes(const Gemm& g) {
  if (g.a_dtype != g.b_dtype || (g.c_dtype != g.a_dtype && g.c_dtype != f32)) return false;
  if (g.bias && (g.bias_dtype != g.c_dtype || alignment_of(g.bias) < kAlignment)) return false;
  if (g.residual && g.accumulate) return false;
  if (g.activation == Activation::none) return !g.preactivation;
  const bool aux_fits =
      !g.preactivation || (g.batch == 1 && g.ldc % 8 == 0 && alignment_of(g.preactivation) >= 16);
  return g.activation == Activation::gelu_tanh && g.c_dtype == bf16 && aux_fits && !addend_of(g);
}

bool run_lt(const Gemm& g) {
  int card = 0;
  OLM_CUDA_CHECK(cudaGetDevice(&card));
  const Operation operation(g);
  const Plan& plan = plans().find(g, card, operation);
  if (!plan.found) return false;
  const size_t bytes = plan.chosen.workspaceSize;
  const auto workspace = g.stream.scratch<char>(bytes);
  const auto alpha = float(g.alpha);
  const void* addend = addend_of(g);
  const float beta = addend ? 1 : 0;
  OLM_LT_CHECK(cublas_lt().matmul(plans().handle(card), operation, &alpha, g.b, plan.b, g.a, plan.a,
                                  &beta, addend ? addend : g.c, plan.c, g.c, plan.c,
                                  &plan.chosen.algo, workspace.get(), bytes,
                                  static_cast<cudaStream_t>(g.stream.native)));
  return true;
}

}  // namespace olm::kernels::cuda_gemm
