#pragma once
// Packing: operands as stored to micro-panels (microkernel.h).
#include <olm/kernels/cpu/gemm/microkernel.h>

namespace olm::kernels::gemm {

/// An operand seen along K: its extent is the m rows of A, or the n columns of B.
struct Operand {
  Matrix matrix;
  int64_t extent = 0, k = 0;
  bool is_a = true;  ///< rows of op(matrix) run along K: true for A
  int64_t r = 0;     ///< rows or columns of a micro-panel: MR for A, NR for B

  /// True where consecutive elements in memory run along K.
  bool k_contiguous() const { return matrix.transposed != is_a; }
  /// Words of a micro-panel per tile along K.
  int64_t tile_words() const { return r * kTileSide; }
  /// Where element `k` of row (of A) or column (of B) `i` lies.
  const void* at(int64_t i, int64_t k) const {
    return is_a ? matrix.at(i, k).data : matrix.at(k, i).data;
  }
};

/// Micro-panels from row or column `begin` on, tiles along K from element `k` on. What lies past
/// the operand is packed as zeros.
struct PackRange {
  int64_t begin = 0, micro_panels = 1, k = 0, k_tiles = 0;
};

/// Packs a range as `packed` elements; micro-panels lie `stride` words from each other.
void pack(DType packed, const Operand& operand, const PackRange& range, int64_t stride, Word* to);

}  // namespace olm::kernels::gemm
