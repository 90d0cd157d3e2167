#pragma once
// What a microkernel is, what it reads and writes, and which of them this CPU has.
//
// Packed operands are micro-panels: MR rows of A, or NR columns of B, along K. A micro-panel is a
// row of 16 x 16 tiles of words of 32 bits, where a word is one f32 or a VNNI pair of bf16 (two
// that follow each other along K). Its K runs over tiles of 16 words; for each there is one tile
// per 16 rows or columns. A tile of A holds 16 words along K of each of 16 rows, row after row; a
// tile of B holds 16 columns of each word along K. Zeros fill up what is past an edge. For bf16
// this is what AMX loads into its tile registers; the vector microkernels read the same layout:
// A word by word, broadcast, B in vectors of 16 columns.
#include <olm/kernels/cpu/gemm/problem.h>

namespace olm::kernels::gemm {

using Word = uint32_t;
inline constexpr int64_t kTileSide = 16;                      // rows, columns or words along K
inline constexpr int64_t kTileWords = kTileSide * kTileSide;  // 1 KiB, an AMX tile register

/// Elements along K of a tile.
constexpr int64_t tile_k(DType packed) { return packed == bf16 ? 2 * kTileSide : kTileSide; }

/// A micro-panel of A, packed or where A lies unpacked: row r of tile q along K begins at
/// data + r · row_stride + q · tile_stride, in words.
struct AMicroPanel {
  const Word* data = nullptr;
  int64_t row_stride = kTileSide, tile_stride = 0;
};

/// A tile of C, or of sums on the way to it.
struct CTile {
  float* data = nullptr;
  int64_t ld = 0;              ///< elements from row to row
  int64_t rows = 0, cols = 0;  ///< at most MR x NR
  bool accumulate = false;     ///< add to what is there
  /// May be written by non-temporal stores; not with `accumulate`. Rows are whole cache lines then.
  bool non_temporal = false;
};

/// Rows of memory that will be packed soon. A microkernel prefetches `lines` cache lines of it in
/// each call, spread over its K, so that they come to L2 while it multiplies.
struct Prefetch {
  static constexpr int64_t kLine = 64;  // bytes
  const char* row = nullptr;
  int64_t bytes = 0, stride = 0, rows = 0;  // of a row, from row to row, and how many are left
  int64_t lines = 0, done = 0;              // `done`: bytes of the row that were prefetched

  void next(int64_t n) {
    for (; n > 0 && rows > 0; --n) {
      __builtin_prefetch(row + done, 0, 2);
      done += kLine;
      if (done < bytes) continue;
      done = 0;
      row += stride;
      --rows;
    }
  }
};

/// The innermost loop, over K, on one tile of C, and the block sizes that suit it. mr and nr are
/// multiples of kTileSide; a microkernel may hold MR x NR in registers part by part.
struct MicroKernel {
  const char* name = "";
  DType packed = f32;       ///< of the elements of micro-panels: f32 or bf16
  int64_t mr = 0;           ///< rows of C in a call; a call may step through them by fewer
  int64_t nr = 0;           ///< columns of C in a call
  int64_t kc = 0;           ///< most elements along K in a call
  int64_t task_nc = 0;      ///< most rows or columns of C along the packed panel in a task
  bool full_tiles = false;  ///< all of MR x NR is read and written, whatever C wants
  /// Around any number of calls on the thread that makes them; either may be null. Non-temporal
  /// stores are seen by other threads after `leave`.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
  /// C tile (+)= micro-panel of A · micro-panel of B over `k_tiles` > 0 tiles along K. Columns of C
  /// up to the next multiple of kTileSide may be written too.
  void (*run)(const AMicroPanel& a, const Word* b, int64_t k_tiles, const CTile& c,
              Prefetch& prefetch) = nullptr;
};

/// While it lives the thread may call the microkernel, unless that is null.
class MicroKernelInUse {
 public:
  explicit MicroKernelInUse(const MicroKernel* kernel) : kernel_(kernel) {
    if (kernel_ && kernel_->enter) kernel_->enter();
  }
  ~MicroKernelInUse() {
    if (kernel_ && kernel_->leave) kernel_->leave();
  }
  MicroKernelInUse(const MicroKernelInUse&) = delete;
  MicroKernelInUse& operator=(const MicroKernelInUse&) = delete;

 private:
  const MicroKernel* kernel_;
};

/// The vector microkernel for micro-panels of f32 or bf16, and the AMX one, for bf16; null where
/// this CPU has none. The first call of the latter asks the system for the permission to use AMX
/// tiles, which then holds for the process.
const MicroKernel* avx512_microkernel(DType packed);
const MicroKernel* amx_microkernel();

/// The best of them for bf16; null where there is none.
const MicroKernel* bf16_microkernel();

/// The best microkernel of this CPU for operands of f32 or bf16; null where there is none. That for
/// bf16 may be one of f32, to which packing widens, where FMA is faster than products of pairs.
const MicroKernel* best_microkernel(DType operands);

}  // namespace olm::kernels::gemm
