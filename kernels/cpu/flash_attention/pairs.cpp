#include <olm/kernels/cpu/flash_attention/pairs.h>

#include <algorithm>
#include <cmath>

namespace olm::kernels::attention {
namespace {

using gemm_tiles::Source;

constexpr int64_t kStep = gemm_tiles::step_depth(bf16);
constexpr int64_t kLeftStep = kTile * 16;  // words of a step of a left operand of kTile rows
constexpr int64_t kChunkRows = 24;         // of a product, where the unit does not fix them

int64_t steps_of(int64_t depth) { return (depth + kStep - 1) / kStep; }

void pack_steps(DType packed, const Source& source, int64_t steps, Word* to) {
  const int64_t strips = (source.items + source.strip - 1) / source.strip;
  gemm_tiles::pack(packed, source, {.strips = strips, .steps = steps}, steps * source.step_size(),
                   to);
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
/// that cover the same columns go together.
template <class Body>
void for_chunks(const Unit& unit, const TileMask& mask, int64_t rows, int64_t align, Body&& body) {
  if (mask.full) return body({.begin = 0, .end = kTile, .columns = {0, kTile}});
  const int64_t all = mask.block_count * mask.block_rows, limit = unit.whole ? kTile : all;
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

int64_t chunk_rows(const Unit& unit) { return unit.whole ? unit.rows : kChunkRows; }

/// c[rows, columns] (+)= left · right over `steps`; columns of a right operand whose strips have
/// `strip_size` words, from a multiple of 16 on, or of a strip where the unit takes whole ones.
void multiply(const Unit& unit, const gemm_tiles::Rows& left, const Word* right, int64_t strip_size,
              int64_t steps, Span columns, float* c, int64_t ldc, int64_t rows, bool add) {
  for (int64_t at = columns.begin; at < columns.end;) {
    const int64_t strip = at / unit.columns, within = at % unit.columns;
    const int64_t end = std::min(columns.end, (strip + 1) * unit.columns);
    const Word* columns_at = right + strip * strip_size + within * 16;
    const int64_t together = unit.whole ? unit.rows : rows;
    for (int64_t r = 0; r < rows; r += together)
      unit.block({.at = left.at + r * left.row, .row = left.row, .step = left.step}, columns_at,
                 steps, c + r * ldc + at, ldc, together, end - at, add);
    at = end;
  }
}

}  // namespace

const Unit* pair_unit(const Attention& a) {
  const float scale = float(a.scale);  // as it is used
  if (a.dtype != bf16 || !(scale > 0) || !std::isfinite(scale)) return nullptr;
  if (a.dim == 0 || a.value_dim == 0) return nullptr;
  const Unit* unit = gemm_tiles::best_unit(bf16);
  return unit && unit->packed == bf16 ? unit : nullptr;
}

int64_t left_words(int64_t items, int64_t depth) {
  return round_up(items, kPairPad) * steps_of(depth) * 16;
}
int64_t right_words(const Unit& unit, int64_t items, int64_t depth) {
  return round_up(items, unit.columns) * steps_of(depth) * 16;
}

void pack_left(const TileRows<bfloat16_t>& x, bool transposed, Word* to) {
  pack_steps(bf16,
             {.matrix = {x.data, bf16, x.stride, transposed},
              .items = transposed ? x.cols : x.rows,
              .depth = transposed ? x.rows : x.cols,
              .strip = transposed ? round_up(x.cols, kPairPad) : kTile},
             steps_of(transposed ? kTile : x.cols), to);
}
void pack_right(const Unit& unit, const TileRows<bfloat16_t>& x, bool transposed, Word* to) {
  pack_steps(bf16,
             {.matrix = {x.data, bf16, x.stride, transposed},
              .items = transposed ? x.rows : x.cols,
              .depth = transposed ? x.cols : x.rows,
              .items_are_rows = false,
              .strip = unit.columns},
             steps_of(transposed ? x.cols : kTile), to);
}

void pair_scores(const Unit& unit, const TileMask& mask, const Word* left, const Word* right,
                 int64_t depth, float* S) {
  const int64_t steps = steps_of(depth), strip = steps * unit.columns * 16;
  for_chunks(unit, mask, chunk_rows(unit), unit.whole ? unit.columns : 16, [&](const Chunk& c) {
    multiply(unit, {.at = left + c.begin * 16, .step = kLeftStep}, right, strip, steps, c.columns,
             S + c.begin * kTile, kTile, c.end - c.begin, false);
  });
}

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

void round_left(const float* P, Word* to) {
  pack_steps(bf16,
             {.matrix = {P, f32, kTile, false}, .items = kTile, .depth = kTile, .strip = kTile},
             steps_of(kTile), to);
}
void round_right(const Unit& unit, const float* P, Word* to) {
  pack_steps(bf16,
             {.matrix = {P, f32, kTile, false},
              .items = kTile,
              .depth = kTile,
              .items_are_rows = false,
              .strip = unit.columns},
             steps_of(kTile), to);
}

void pair_add_by_query(const Unit& unit, const TileMask& mask, const Word* P, const Word* values,
                       float* out, int64_t ld) {
  const int64_t step = unit.columns * 16, strip = steps_of(kTile) * step;
  for_chunks(unit, mask, chunk_rows(unit), kStep, [&](const Chunk& c) {
    const int64_t first = c.columns.begin / kStep, steps = c.columns.end / kStep - first;
    const Word* left = P + first * kLeftStep + c.begin * 16;
    multiply(unit, {.at = left, .step = kLeftStep}, values + first * step, strip, steps, {0, ld},
             out + c.begin * ld, ld, c.end - c.begin, true);
  });
}

void pair_add_by_key(const Unit& unit, const TileMask& mask, const Word* values, int64_t items,
                     const Word* P, float* out) {
  const int64_t left_step = items * 16, step = unit.columns * 16, strip = steps_of(kTile) * step;
  for_chunks(unit, mask, kStep, unit.whole ? unit.columns : 16, [&](const Chunk& c) {
    const int64_t first = c.begin / kStep, steps = steps_of(c.end) - first;
    multiply(unit, {.at = values + first * left_step, .step = left_step}, P + first * step, strip,
             steps, c.columns, out, kTile, items, true);
  });
}

void transpose_sums(const float* sums, int64_t cols, float* transposed) {
  pack_steps(f32,
             {.matrix = {sums, f32, kTile, true}, .items = kTile, .depth = cols, .strip = kTile},
             cols / 16, reinterpret_cast<Word*>(transposed));
}

}  // namespace olm::kernels::attention
