#pragma once
// How one GEMM is blocked: the sizes of the loops of blocked.cpp.
#include <olm/kernels/cpu/gemm/pack.h>

namespace olm::kernels::gemm {

/// What one thread computes: of C [i0, i1) along the side of the block and [j0, j1) along that of
/// the panel, from [k0, k1) of K.
struct Task {
  int64_t i0 = 0, i1 = 0, j0 = 0, j1 = 0, k0 = 0, k1 = 0;
};

/// In BLIS a block of A, MC x KC, stays in L2 while a panel of B, KC x NC, passes from L3. So it is
/// here where C has at least as many rows as columns. Where it has more columns the operands change
/// places, as if Cᵀ = Bᵀ · Aᵀ were computed: the block is of B, the panel of A, loops over i walk
/// the columns of C and loops over j its rows. Packing and the microkernel know A and B as they
/// are.
///
/// Tasks depend on shape and microkernel alone. mc depends on the size of L2 as well, but says only
/// in which order tiles are met: sums are the same for any blocking.
struct GemmPlan {
  GemmPlan(const MicroKernel& microkernel, const Problem& gemm);

  const MicroKernel& kernel;
  const Problem& problem;
  bool block_is_a;
  Operand block, panel;
  /// True where C is f32 and its epilogue only stores: the microkernel adds to C itself. Else sums
  /// are kept in f32 beside it until K is at its end.
  bool sums_in_c;
  bool non_temporal;         ///< C is written by non-temporal stores, where it is not added to
  int64_t kc;                ///< elements along K of a microkernel's call, whole tiles
  int64_t kp;                ///< elements along K of the packed panel: kc where sums_in_c, else all
  int64_t mc;                ///< extent of the packed block, whole micro-panels
  int64_t nc;                ///< extent of the packed panel
  int64_t tasks_i;           ///< tasks along i
  int64_t task_mc, task_nc;  ///< extent of a task, whole micro-panels

  /// Tasks for the panel at jc, and one of them over the K that is packed from pp on.
  int64_t tasks(int64_t jc) const;
  Task task(int64_t index, int64_t jc, int64_t pp) const;

  /// True where the microkernel reads A where it lies, over the K that is packed from pp on.
  bool a_unpacked(int64_t pp) const;

  /// Words of the packed block and of the packed panel, of a micro-panel of each, and from their
  /// beginning to the micro-panel at `i` or `j`, and `k` of the panel.
  int64_t block_words() const { return mc / block.r * block_stride(); }
  int64_t panel_words() const;
  int64_t block_stride() const;
  int64_t panel_stride() const;
  int64_t block_offset(int64_t i) const { return i / block.r * block_stride(); }
  int64_t panel_offset(int64_t j, int64_t k) const;

  /// Floats of the sums that a task keeps beside C, and from their beginning to those of a tile:
  /// one tile where one call of the microkernel takes all of K, else all of the task's.
  int64_t sums_size() const;
  int64_t sums_offset(const Task& t, int64_t ir, int64_t jr) const;

 private:
  bool a_fits_microkernel_;
};

}  // namespace olm::kernels::gemm
