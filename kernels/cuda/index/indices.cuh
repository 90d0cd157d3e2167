#pragma once
// Indices of either dtype, read in device code.
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {

struct Indices {
  const void* data;
  bool wide;  // i64, else i32
  __device__ int64_t operator[](int64_t i) const {
    return wide ? in<int64_t>(data)[i] : int64_t(in<int32_t>(data)[i]);
  }
};

inline Indices indices_of(const void* data, DType dtype) {
  require(dtype == i32 || dtype == i64, "cuda: indices are i32 or i64, got ", dtype);
  return {data, dtype == i64};
}

}  // namespace olm::kernels
