#pragma once
// Products on packed tiles of 16 x 16 words of 32 bits; a word is one f32, or two bf16 that follow
// each other along the depth.
//
// Operands are packed in strips of some rows of A, or columns of B, and steps of 16 words along the
// depth. A step of a strip is one tile for every 16 rows or columns. A row of a tile of A holds 16
// words of one row's depth; a row of a tile of B holds one word of the depth for each of 16
// columns. What is past an edge is zero. For bf16 that is what AMX multiplies; vector instructions
// like it as well.
#include <olm/kernels/cpu/gemm_internal.h>

namespace olm::kernels::gemm_tiles {

inline constexpr int64_t kTile = 256;  // words
using Word = uint32_t;

/// Elements along the depth of a step.
constexpr int64_t step_depth(DType packed) { return packed == bf16 ? 32 : 16; }

/// A strip of A as a unit reads it: packed, or where it lies. Row r of step q begins at
/// at + r · row + q · step.
struct Rows {
  const Word* at = nullptr;
  int64_t row = 16, step = 0;
};

/// Where a block of the result lies: row r begins at at + r · row. Sums are added to what is there,
/// or else they may go past the caches; rows are whole lines of memory then.
struct Sums {
  float* at = nullptr;
  int64_t row = 0;
  bool add = false, past_caches = false;
};

/// Rows of memory that will be read soon. A unit asks for `lines` lines of kLine bytes in each
/// block, spread over its steps, so that they come to the second nearest cache while it multiplies.
struct Ahead {
  static constexpr int64_t kLine = 64;
  const char* at = nullptr;
  int64_t bytes = 0, stride = 0, rows = 0;  // of a row, from row to row, and how many are left
  int64_t lines = 0, done = 0;              // `done`: bytes of the row that were asked for

  void ask(int64_t n) {
    for (; n > 0 && rows > 0; --n) {
      __builtin_prefetch(at + done, 0, 2);
      done += kLine;
      if (done < bytes) continue;
      done = 0;
      at += stride;
      --rows;
    }
  }
};

/// What multiplies strips.
struct Unit {
  const char* name = "";
  DType packed = f32;             ///< of the elements in the tiles: f32 or bf16
  int64_t rows = 0, columns = 0;  ///< of strips of A and B, multiples of 16
  int64_t depth = 0;   ///< of a pass: long, but a strip stays in the second nearest cache
  int64_t inner = 0;   ///< most inner items of a task
  bool whole = false;  ///< a block reads and writes whole strips, whatever it is asked for
  /// Around any number of blocks on the thread that runs them; may be null.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
  /// c[rows, columns] (+)= strip of A · strip of B over `steps` steps. Columns up to the next
  /// multiple of 16 may be written too. What went past the caches is seen by others after `leave`.
  void (*run)(const Rows& a, const Word* b, int64_t steps, const Sums& c, int64_t rows,
              int64_t columns, Ahead& ahead) = nullptr;

  void block(const Rows& a, const Word* b, int64_t steps, float* c, int64_t ldc, int64_t rows,
             int64_t columns, bool add) const {
    Ahead nothing;
    run(a, b, steps, {.at = c, .row = ldc, .add = add}, rows, columns, nothing);
  }
};

/// The best unit of this CPU that multiplies pairs of bf16; null where there is none. The first
/// call asks the system for the permission to use AMX tiles, which then holds for the process.
const Unit* pair_unit();

/// The best unit of this CPU for operands of f32 or bf16; null where there is none. It may widen
/// bf16 to tiles of f32, where those are multiplied faster.
const Unit* best_unit(DType operands);

/// The best unit of this CPU for the product, that for bf16 where one of its operands is bf16; null
/// where there is none or the product would not gain.
const Unit* unit_for(const gemm_internal::Product& p);

/// The whole product. Tasks depend on its shape and the unit alone.
void multiply(const Unit& unit, const gemm_internal::Product& p, const Stream& stream);

/// An operand seen along its depth. Rows of A and columns of B are its items.
struct Source {
  gemm_internal::Matrix matrix;
  int64_t items = 0, depth = 0;
  bool items_are_rows = true;  ///< of op(matrix): true for A
  int64_t strip = 0;           ///< items of a strip
  /// True where consecutive elements in memory run along the depth.
  bool runs_along_depth() const { return matrix.transposed != items_are_rows; }
  /// Words of a step of a strip.
  int64_t step_size() const { return strip * 16; }
};

/// What is packed: strips from `item` on, steps from `depth` on.
struct Part {
  int64_t item = 0, strips = 1, depth = 0, steps = 0;
};

/// Packs a part as `packed` elements; strips lie `strip_size` words from each other.
void pack(DType packed, const Source& source, const Part& at, int64_t strip_size, Word* to);

}  // namespace olm::kernels::gemm_tiles
