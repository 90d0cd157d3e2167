#pragma once
// Products on packed tiles of 16 x 16 words of 32 bits; a word is one f32, or two bf16 that follow
// each other along the depth.
//
// Operands are packed in strips of 32 rows of A, or 32 columns of B, and steps of 16 words along
// the depth; a step is two tiles. A row of a tile of A holds 16 words of one row's depth; a row of
// a tile of B holds one word of the depth for each of 16 columns. What is past an edge is zero. For
// bf16 that is what AMX multiplies; vector instructions like it as well.
#include <olm/kernels/cpu/gemm_internal.h>

namespace olm::kernels::gemm_tiles {

inline constexpr int64_t kStrip = 32, kTile = 256, kStepSize = 2 * kTile;  // sizes in words
using Word = uint32_t;

/// Elements along the depth of a step.
constexpr int64_t step_depth(DType packed) { return packed == bf16 ? 32 : 16; }

/// 32 rows of A as a unit reads them: packed, or where they lie. Row r of step q begins at
/// at + r · row + q · step.
struct Rows {
  const Word* at = nullptr;
  int64_t row = 16, step = kStepSize;
};

/// What multiplies strips.
struct Unit {
  const char* name = "";
  DType packed = f32;  ///< of the elements in the tiles: f32 or bf16
  int64_t depth = 0;   ///< of a pass: with it a strip stays in the nearest cache
  int64_t inner = 0;   ///< items of a task: so many, over that depth, stay in the next one
  /// Around a task on the thread that runs it; may be null.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
  /// c[32, 32] = A strip · B strip over `steps` steps, or += that where `add`. Only the first
  /// `rows` rows are wanted; others may be written too.
  void (*block)(const Rows& a, const Word* b, int64_t steps, float* c, int64_t ldc, int64_t rows,
                bool add) = nullptr;
};

/// The best unit of this CPU for the product: f32 for f32 operands, bf16 where one of them is bf16;
/// null where there is none or the product would not gain. The first call asks the system for the
/// permission to use AMX tiles, which then holds for the process.
const Unit* unit_for(const gemm_internal::Product& p);

/// The whole product. Tasks depend on its shape and the unit alone.
void multiply(const Unit& unit, const gemm_internal::Product& p, const Stream& stream);

/// An operand seen along its depth. Rows of A and columns of B are its items.
struct Source {
  gemm_internal::Matrix matrix;
  int64_t items = 0, depth = 0;
  bool items_are_rows = true;  ///< of op(matrix): true for A
  /// True where consecutive elements in memory run along the depth.
  bool runs_along_depth() const { return matrix.transposed != items_are_rows; }
  /// True where rows of A can be read where they lie: nothing to turn, round or fill up.
  bool lies_packed(DType packed) const {
    return items_are_rows && runs_along_depth() && matrix.dtype == packed && items % 32 == 0 &&
           depth % step_depth(packed) == 0 && matrix.ld * int64_t(size_of(packed)) % 4 == 0;
  }
};

/// What is packed: strips from `item` on, steps from `depth` on.
struct Part {
  int64_t item = 0, strips = 1, depth = 0, steps = 0;
};

/// Packs a part as `packed` elements; strips lie `strip_size` words from each other.
void pack(DType packed, const Source& source, const Part& at, int64_t strip_size, Word* to);

}  // namespace olm::kernels::gemm_tiles
