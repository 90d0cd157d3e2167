#pragma once
// Backward of the epilogue, of one GEMM and of groups of rows.
#include <olm/kernels/gemm.h>
#include <olm/kernels/cuda/launch.cuh>

namespace olm::kernels::cuda_gemm {

/// Pointers of a group of rows: of GEMM's operands, or of its bias gradient (c).
struct Group {
  const void *b = nullptr, *bias = nullptr;
  void* c = nullptr;  ///< null: not wanted
  bool accumulate = false;
};

/// GemmEpilogueBackward, of the rows [offsets[g], offsets[g + 1]) of each group; without offsets
/// all rows are one group. Groups are [groups] in device memory, or, where that is null, the one
/// `only`.
struct EpilogueBackward {
  DType dtype = f32;
  const void *dy = nullptr, *z = nullptr;
  void* dz = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t dy_stride = 0;  ///< elements between rows of dy; 0: cols
  Activation activation = Activation::none;
  const int32_t* offsets = nullptr;
  const Group* groups_in_memory = nullptr;
  Group only = {};
  int64_t groups = 1;
  bool wants_dbias = false;
  Faults faults = {};
  Stream stream = {};
};
void run_epilogue_backward(const EpilogueBackward& k);

}  // namespace olm::kernels::cuda_gemm
