#include <olm/kernels/cpu/flash_attention/pairs.h>

#include <algorithm>
#include <cmath>

namespace olm::kernels::attention {
namespace {

using gemm::Operand;

constexpr int64_t kStep = gemm::tile_k(bf16);
constexpr int64_t kLeftStep = kTile * 16;  // words of a step of a left operand of kTile rows
constexpr int64_t kChunkRows = 24;         // of a product, where the unit does not fix them

int64_t steps_of(int64_t depth) { return (depth + kStep - 1) / kStep; }

void pack_steps(DType packed, const Operand& source, int64_t steps, Word* to) {
  const int64_t strips = (source.extent + source.r - 1) / source.r;
  gemm::pack(packed, source, {.micro_panels = strips, .k_tiles = steps},
             steps * source.tile_words(), to);
}

/// Rows [begin, end) of a tile and the columns that their blocks cover.
struct Chunk {
  int64_t begin = 0, end = 0;
  Span columns{};
};

Chunk chunk_of(const Region& region, int64_t begin, int64_t rows, int64_t align) {
  Chunk c{.begin = begin, .end = begin + rows, .columns = {kTile, 0}};
  const int64_t last = std::min(c.end / region.block, region.count);
  for (int64_t n = begin / region.block; n < last; ++n) {
    const Span& block = region.blocks[n];
    if (block.empty()) continue;
    c.columns.begin = std::min(c.columns.begin, block.begin / align * align);
    c.columns.end = std::max(c.columns.end, rounded_up(block.end, align));
  }
  if (c.columns.empty()) c.columns = {};
  return c;
}

/// Calls body(chunk) for so many rows at a time, with columns by multiples of `align`; neighbours
/// that cover the same columns go together.
template <class Body>
void for_chunks(const Unit& unit, const Region& region, int64_t rows, int64_t align, Body&& body) {
  if (region.full) return body({.begin = 0, .end = kTile, .columns = {0, kTile}});
  const int64_t all = region.count * region.block, limit = unit.full_tiles ? kTile : all;
  Chunk pending;
  for (int64_t r = 0; r < all; r += rows) {
    const Chunk next = chunk_of(region, r, rows, align);
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

int64_t chunk_rows(const Unit& unit) { return unit.full_tiles ? unit.mr : kChunkRows; }

/// c[rows, columns] (+)= left · right over `steps`; columns of a right operand whose strips have
/// `strip_size` words, from a multiple of 16 on, or of a strip where the unit takes whole ones.
void multiply(const Unit& unit, const gemm::AMicroPanel& left, const Word* right,
              int64_t strip_size, int64_t steps, Span columns, float* c, int64_t ldc, int64_t rows,
              bool add) {
  for (int64_t at = columns.begin; at < columns.end;) {
    const int64_t strip = at / unit.nr, within = at % unit.nr;
    const int64_t end = std::min(columns.end, (strip + 1) * unit.nr);
    const Word* columns_at = right + strip * strip_size + within * 16;
    const int64_t together = unit.full_tiles ? unit.mr : rows;
    for (int64_t r = 0; r < rows; r += together) {
      gemm::Prefetch nothing;
      unit.run({.data = left.data + r * left.row_stride,
                .row_stride = left.row_stride,
                .tile_stride = left.tile_stride},
               columns_at, steps,
               {.data = c + r * ldc + at,
                .ld = ldc,
                .rows = together,
                .cols = end - at,
                .accumulate = add},
               nothing);
    }
    at = end;
  }
}

const bfloat16_t* elements(const Word* words) { return reinterpret_cast<const bfloat16_t*>(words); }

bool is_finite(bfloat16_t x) { return (x.bits & 0x7f80) != 0x7f80; }

}  // namespace

const Unit* pair_unit(const Attention& a) {
  const float scale = float(a.scale);  // as it is used
  if (a.dtype != bf16 || !(scale > 0) || !std::isfinite(scale)) return nullptr;
  if (a.dim == 0 || a.value_dim == 0) return nullptr;
  const Unit* unit = gemm::best_microkernel(bf16);
  return unit && unit->packed == bf16 ? unit : nullptr;
}

int64_t left_words(int64_t items, int64_t depth) {
  return rounded_up(items, kPairPad) * steps_of(depth) * 16;
}
int64_t right_words(const Unit& unit, int64_t items, int64_t depth) {
  return rounded_up(items, unit.nr) * steps_of(depth) * 16;
}

void pack_left(const PairRows& x, bool turned, Word* to) {
  pack_steps(bf16,
             {.matrix = {x.data, bf16, x.stride, turned},
              .extent = turned ? x.cols : x.rows,
              .k = turned ? x.rows : x.cols,
              .r = turned ? rounded_up(x.cols, kPairPad) : kTile},
             steps_of(turned ? kTile : x.cols), to);
}
void pack_right(const Unit& unit, const PairRows& x, bool turned, Word* to) {
  pack_steps(bf16,
             {.matrix = {x.data, bf16, x.stride, turned},
              .extent = turned ? x.rows : x.cols,
              .k = turned ? x.cols : x.rows,
              .is_a = false,
              .r = unit.nr},
             steps_of(turned ? x.cols : kTile), to);
}

void pair_scores(const Unit& unit, const Region& region, const Word* left, const Word* right,
                 int64_t depth, float* scores) {
  const int64_t steps = steps_of(depth), strip = steps * unit.nr * 16;
  for_chunks(unit, region, chunk_rows(unit), unit.full_tiles ? unit.nr : 16, [&](const Chunk& c) {
    multiply(unit, {.data = left + c.begin * 16, .tile_stride = kLeftStep}, right, strip, steps,
             c.columns, scores + c.begin * kTile, kTile, c.end - c.begin, false);
  });
}

void clear_outside(const Region& region, float* weights) {
  if (region.full) return;
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t block = r / region.block;
    const Span span = block < region.count ? region.blocks[block] : Span{};
    float* row = weights + r * kTile;
    if (span.empty()) {
      std::fill_n(row, kTile, 0.0f);
    } else {
      std::fill(row, row + span.begin, 0.0f);
      std::fill(row + span.end, row + kTile, 0.0f);
    }
  }
}

void round_left(const float* weights, Word* to) {
  pack_steps(bf16,
             {.matrix = {weights, f32, kTile, false}, .extent = kTile, .k = kTile, .r = kTile},
             steps_of(kTile), to);
}
void round_right(const Unit& unit, const float* weights, Word* to) {
  pack_steps(bf16,
             {.matrix = {weights, f32, kTile, false},
              .extent = kTile,
              .k = kTile,
              .is_a = false,
              .r = unit.nr},
             steps_of(kTile), to);
}

void pair_add_by_query(const Unit& unit, const Region& region, const Word* weights,
                       const Word* values, float* out, int64_t ld) {
  const int64_t step = unit.nr * 16, strip = steps_of(kTile) * step;
  for_chunks(unit, region, chunk_rows(unit), kStep, [&](const Chunk& c) {
    const int64_t first = c.columns.begin / kStep, steps = c.columns.end / kStep - first;
    const Word* left = weights + first * kLeftStep + c.begin * 16;
    multiply(unit, {.data = left, .tile_stride = kLeftStep}, values + first * step, strip, steps,
             {0, ld}, out + c.begin * ld, ld, c.end - c.begin, true);
  });
}

void pair_add_by_key(const Unit& unit, const Region& region, const Word* values, int64_t items,
                     const Word* weights, float* out) {
  const int64_t left_step = items * 16, step = unit.nr * 16, strip = steps_of(kTile) * step;
  for_chunks(unit, region, kStep, unit.full_tiles ? unit.nr : 16, [&](const Chunk& c) {
    const int64_t first = c.begin / kStep, steps = steps_of(c.end) - first;
    multiply(unit, {.data = values + first * left_step, .tile_stride = left_step},
             weights + first * step, strip, steps, c.columns, out, kTile, items, true);
  });
}

PairRows finite_part(const PairRows& x, bfloat16_t* memory) {
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < x.cols; ++c) {
      const bfloat16_t v = x.data[r * x.stride + c];
      memory[r * x.cols + c] = is_finite(v) ? v : bfloat16_t();
    }
  return {.data = memory, .stride = x.cols, .rows = x.rows, .cols = x.cols};
}

void add_nonfinite(const Word* rounded_left, const PairRows& values, bool of_queries, float* sums,
                   int64_t x_step, int64_t c_step) {
  const bfloat16_t* weights = elements(rounded_left);
  for (int64_t r = 0; r < values.rows; ++r)
    for (int64_t c = 0; c < values.cols; ++c) {
      const bfloat16_t v = values.data[r * values.stride + c];
      if (is_finite(v)) continue;
      for (int64_t x = 0; x < kTile; ++x) {
        const int64_t query = of_queries ? r : x, key = of_queries ? x : r;
        const float w = float(weights[key / kStep * kLeftStep * 2 + query * kStep + key % kStep]);
        if (w != 0) sums[x * x_step + c * c_step] += w * float(v);
      }
    }
}

void turn_sums(const float* sums, int64_t cols, float* turned) {
  pack_steps(f32, {.matrix = {sums, f32, kTile, true}, .extent = kTile, .k = cols, .r = kTile},
             cols / 16, reinterpret_cast<Word*>(turned));
}

}  // namespace olm::kernels::attention
