#include <olm/kernels/cpu/flash_attention/gemm_bf16.h>

#include <algorithm>
#include <cmath>

namespace olm::kernels::attention {
namespace {

constexpr int64_t kTileK = gemm::tile_k(bf16);
constexpr int64_t kATileWords = kTile * gemm::kTileSide;  // an A operand of kTile rows, per kTileK
/// Rows of a chunk, where the microkernel takes any number: few enough to follow a causal diagonal,
/// many enough to use what is loaded of B several times. A whole number of the register tiles of
/// six rows (microkernel_avx512.cpp) and of a mask's blocks, which have four rows or eight.
constexpr int64_t kChunkRows = 24;

/// All micro-panels of an operand, one after another. `k_tiles` may reach past its K: rows that a
/// last tile of the tensor lacks are packed as zeros, and add nothing.
void pack(DType packed, const gemm::Operand& operand, int64_t k_tiles, Word* to) {
  gemm::pack(packed, operand,
             {.micro_panels = ceil_div(operand.extent, operand.r), .k_tiles = k_tiles},
             k_tiles * operand.tile_words(), to);
}

/// Rows [begin, end) of a tile and the columns that their blocks cover.
struct Chunk {
  int64_t begin = 0, end = 0;
  Span columns{};
};

Chunk chunk_of(const TileMask& mask, int64_t begin, int64_t rows, int64_t align) {
  Chunk c{.begin = begin, .end = begin + rows, .columns = {kTile, 0}};
  const int64_t last = std::min(c.end / mask.block_rows, mask.block_count);
  for (int64_t n = begin / mask.block_rows; n < last; ++n) {
    const Span& block = mask.blocks[n];
    if (block.empty()) continue;
    c.columns.begin = std::min(c.columns.begin, block.begin / align * align);
    c.columns.end = std::max(c.columns.end, round_up(block.end, align));
  }
  if (c.columns.empty()) c.columns = {};
  return c;
}

/// Calls body(chunk) for so many rows at a time, with columns by multiples of `align`; neighbours
/// that cover the same columns go together. So the tiles on a causal diagonal, where each chunk has
/// other columns, skip most of what is masked, and a tile whose masked keys are its last ones, as
/// padding leaves it, is one call.
template <class Body>
void for_chunks(const MicroKernel& kernel, const TileMask& mask, int64_t rows, int64_t align,
                Body&& body) {
  if (mask.full) return body({.begin = 0, .end = kTile, .columns = {0, kTile}});
  const int64_t all = mask.block_count * mask.block_rows;
  // The last chunk may reach past the rows of the tensor. Operands and results have kTile rows, so
  // a microkernel that takes whole tiles only may go on into them; another one stops.
  const int64_t limit = kernel.full_tiles ? kTile : all;
  Chunk pending;
  for (int64_t r = 0; r < all; r += rows) {
    const Chunk next = chunk_of(mask, r, rows, align);
    if (next.columns.begin == pending.columns.begin && next.columns.end == pending.columns.end) {
      pending.end = next.end;
      continue;
    }
    if (!pending.columns.empty()) body(pending);
    pending = next;
  }
  pending.end = std::min(pending.end, limit);
  if (!pending.columns.empty()) body(pending);
}

// AMX takes MR x NR as a whole, so there is nothing to skip within; vectors can begin at any packed
// tile of 16 columns.
int64_t chunk_rows(const MicroKernel& kernel) { return kernel.full_tiles ? kernel.mr : kChunkRows; }
int64_t column_align(const MicroKernel& kernel) {
  return kernel.full_tiles ? kernel.nr : gemm::kTileSide;
}

/// C[rows, columns] (+)= A · B over `k_tiles`. Micro-panels of B lie `panel_words` apart; columns
/// begin at a multiple of column_align(), which may be within a micro-panel: its tiles of 16
/// columns lie side by side. A is one micro-panel of all rows, whose rows are kTileSide words apart
/// in a tile along K, so that a call may begin at any of them.
void multiply(const MicroKernel& kernel, const gemm::AMicroPanel& a, const Word* b,
              int64_t panel_words, int64_t k_tiles, Span columns, gemm::CTile c) {
  const int64_t rows = c.rows, step = kernel.full_tiles ? kernel.mr : rows;
  float* const origin = c.data;
  for (int64_t at = columns.begin; at < columns.end;) {
    const int64_t panel = at / kernel.nr, within = at % kernel.nr;
    const int64_t end = std::min(columns.end, (panel + 1) * kernel.nr);
    const Word* b_at = b + panel * panel_words + within * gemm::kTileSide;
    c.rows = step, c.cols = end - at;
    for (int64_t r = 0; r < rows; r += step) {
      gemm::Prefetch nothing;  // operands of a tile are in L1 or L2
      c.data = origin + r * c.ld + at;
      gemm::AMicroPanel a_at = a;
      a_at.data += r * a.row_stride;
      kernel.run(a_at, b_at, k_tiles, c, nothing);
    }
    at = end;
  }
}

}  // namespace

// The scale is applied in f32 behind the GEMM, and the online softmax takes the maximum of a row
// before it: that wants a scale above 0. Attention with another one computes in acc_dtype.
const MicroKernel* bf16_microkernel(const Attention& a) {
  const float scale = float(a.scale);  // as it is used
  if (a.dtype != bf16 || !(scale > 0) || !std::isfinite(scale)) return nullptr;
  if (a.dim == 0 || a.value_dim == 0) return nullptr;
  const MicroKernel* kernel = gemm::best_microkernel(bf16);
  return kernel && kernel->packed == bf16 ? kernel : nullptr;
}

int64_t a_words(int64_t extent, int64_t k) {
  return round_up(extent, kBf16Pad) * ceil_div(k, kTileK) * gemm::kTileSide;
}
int64_t b_words(const MicroKernel& kernel, int64_t extent, int64_t k) {
  return round_up(extent, kernel.nr) * ceil_div(k, kTileK) * gemm::kTileSide;
}

// r is the extent of the micro-panel. As A [kTile, cols] the rows past the tensor are filled up to
// kTile; as A [cols, kTile] the head size is rounded up to MR of AMX, 32.
void pack_a(const TileRows<bfloat16_t>& x, bool transposed, Word* to) {
  pack(bf16,
       {.matrix = {x.data, bf16, x.stride, transposed},
        .extent = transposed ? x.cols : x.rows,
        .k = transposed ? x.rows : x.cols,
        .r = transposed ? round_up(x.cols, kBf16Pad) : kTile},
       ceil_div(transposed ? kTile : x.cols, kTileK), to);
}
void pack_b(const MicroKernel& kernel, const TileRows<bfloat16_t>& x, bool transposed, Word* to) {
  pack(bf16,
       {.matrix = {x.data, bf16, x.stride, transposed},
        .extent = transposed ? x.rows : x.cols,
        .k = transposed ? x.cols : x.rows,
        .is_a = false,
        .r = kernel.nr},
       ceil_div(transposed ? x.cols : kTile, kTileK), to);
}

// By blocks, not by rows: within a block the softmax has written zeros to masked pairs itself.
void clear_outside(const TileMask& mask, float* P) {
  if (mask.full) return;
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t block = r / mask.block_rows;
    const Span span = block < mask.block_count ? mask.blocks[block] : Span{};
    float* row = P + r * kTile;
    if (span.empty()) {
      std::fill_n(row, kTile, 0.0f);
    } else {
      std::fill(row, row + span.begin, 0.0f);
      std::fill(row + span.end, row + kTile, 0.0f);
    }
  }
}

void round_to_a(const float* P, Word* to) {
  pack(bf16, {.matrix = {P, f32, kTile, false}, .extent = kTile, .k = kTile, .r = kTile},
       kTile / kTileK, to);
}
void round_to_b(const MicroKernel& kernel, const float* P, Word* to) {
  pack(bf16,
       {.matrix = {P, f32, kTile, false},
        .extent = kTile,
        .k = kTile,
        .is_a = false,
        .r = kernel.nr},
       kTile / kTileK, to);
}

void bf16_scores(const MicroKernel& kernel, const TileMask& mask, const Word* a, const Word* b,
                 int64_t k, float* S) {
  const int64_t k_tiles = ceil_div(k, kTileK), panel = k_tiles * kernel.nr * gemm::kTileSide;
  for_chunks(kernel, mask, chunk_rows(kernel), column_align(kernel), [&](const Chunk& c) {
    multiply(kernel, {.data = a + c.begin * gemm::kTileSide, .tile_stride = kATileWords}, b, panel,
             k_tiles, c.columns,
             {.data = S + c.begin * kTile, .ld = kTile, .rows = c.end - c.begin});
  });
}

void bf16_by_query(const MicroKernel& kernel, const TileMask& mask, const Word* P,
                   const Word* values, float* out, int64_t ld) {
  const int64_t tile = kernel.nr * gemm::kTileSide, panel = kTile / kTileK * tile;
  // Columns of P are K here: only the tiles along K that the chunk reaches are multiplied.
  for_chunks(kernel, mask, chunk_rows(kernel), kTileK, [&](const Chunk& c) {
    const int64_t first = c.columns.begin / kTileK, k_tiles = c.columns.end / kTileK - first;
    const Word* a = P + first * kATileWords + c.begin * gemm::kTileSide;
    multiply(kernel, {.data = a, .tile_stride = kATileWords}, values + first * tile, panel, k_tiles,
             {0, ld},
             {.data = out + c.begin * ld, .ld = ld, .rows = c.end - c.begin, .accumulate = true});
  });
}

void bf16_by_key(const MicroKernel& kernel, const TileMask& mask, const Word* values,
                 int64_t extent, const Word* P, float* out) {
  const int64_t a_tile = extent * gemm::kTileSide, b_tile = kernel.nr * gemm::kTileSide;
  const int64_t panel = kTile / kTileK * b_tile;
  // Rows of P are K here, so chunks are of kTileK rows.
  for_chunks(kernel, mask, kTileK, column_align(kernel), [&](const Chunk& c) {
    const int64_t first = c.begin / kTileK, k_tiles = ceil_div(c.end, kTileK) - first;
    multiply(kernel, {.data = values + first * a_tile, .tile_stride = a_tile}, P + first * b_tile,
             panel, k_tiles, c.columns,
             {.data = out, .ld = kTile, .rows = extent, .accumulate = true});
  });
}

// Packing as micro-panels of f32 is a transposition by tiles of 16 x 16 in registers, so it serves
// here too: the "operand" is the sums, whose K runs over columns.
void transpose_sums(const float* sums, int64_t cols, float* rows) {
  pack(f32, {.matrix = {sums, f32, kTile, true}, .extent = kTile, .k = cols, .r = kTile},
       cols / gemm::kTileSide, reinterpret_cast<Word*>(rows));
}

}  // namespace olm::kernels::attention
