#pragma once
// The functions of cuBLASLt that are used, by the types of its header.
#include <cublasLt.h>

#include <olm/kernels/cuda/cublas_lt.h>

namespace olm::kernels {

struct CublasLt {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;
  decltype(&cublasLtMatmulDescCreate) matmul_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) matmul_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) matmul_set = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
};

/// Calls f(name, function) for each of them.
template <class F>
void for_each_function(CublasLt& lt, F&& f) {
  f("cublasLtCreate", lt.create);
  f("cublasLtGetStatusString", lt.status_string);
  f("cublasLtMatrixLayoutCreate", lt.layout_create);
  f("cublasLtMatrixLayoutDestroy", lt.layout_destroy);
  f("cublasLtMatrixLayoutSetAttribute", lt.layout_set);
  f("cublasLtMatmulDescCreate", lt.matmul_create);
  f("cublasLtMatmulDescDestroy", lt.matmul_destroy);
  f("cublasLtMatmulDescSetAttribute", lt.matmul_set);
  f("cublasLtMatmulPreferenceCreate", lt.preference_create);
  f("cublasLtMatmulPreferenceDestroy", lt.preference_destroy);
  f("cublasLtMatmulPreferenceSetAttribute", lt.preference_set);
  f("cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  f("cublasLtMatmul", lt.matmul);
}

}  // namespace olm::kernels
