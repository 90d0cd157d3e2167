// The driver of products on tiles. The operand of the shorter side of the result is packed whole, a
// panel at a time; tasks are blocks of the result, and pack each strip of the other operand when
// they come to it. Sums of a block stay in f32 over all passes along the depth, and are finished
// into C while they are in the cache.
#include <olm/kernels/cpu/gemm_tiles.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>

namespace olm::kernels::gemm_tiles {
namespace {

using gemm_internal::Finish;
using gemm_internal::Product;

constexpr int64_t kPanel = 8192, kMostOuter = 256, kTasks = 8, kTogether = 4;
constexpr int64_t kLargestBlock = 64 * 64;  // of any unit

int64_t cut(int64_t n, int64_t size) { return (n + size - 1) / size; }
int64_t round_up(int64_t n, int64_t to) { return cut(n, to) * to; }

/// A panel of the product, and how it is divided: by its shape and the unit alone. Its outer side
/// is rows or columns, whichever are more; strips along it are packed by the tasks.
struct Panel {
  const Unit& unit;
  Product p;
  const Stream& stream;
  bool outer_is_rows = true;
  Source outer = {}, inner = {};
  int64_t passes = 0, depth = 0, steps = 0;  // depth and steps of a pass
  int64_t task_outer = 0, task_inner = 0;    // sizes of a task along the two sides
  int64_t inner_tasks = 0;                   // tasks along the inner side
  bool direct = false;                       // sums are kept in C itself
  bool rows_in_place = false;                // A is read where it lies
  const Word* packed = nullptr;              // the inner operand
  int64_t packed_strip = 0;                  // size of one strip of it
};

bool keeps_sums_in_c(const Product& p) {
  const Finish& o = p.out;
  return o.dtype == f32 && o.activation == Activation::none && !o.bias && !o.residual &&
         !o.preactivation && p.alpha == 1;
}

/// True where A can be read where it lies: there is nothing to turn, round or fill up, and its rows
/// do not compete for the same few sets of the nearest cache (64 sets of lines of 64 bytes).
bool can_read_in_place(const Unit& unit, const Source& rows) {
  const int64_t bytes = rows.matrix.ld * int64_t(size_of(unit.packed));
  return rows.runs_along_depth() && rows.matrix.dtype == unit.packed &&
         rows.depth % step_depth(unit.packed) == 0 && bytes % 4 == 0 && bytes / 64 % 16 != 0 &&
         (!unit.whole || rows.items % rows.strip == 0);
}

Panel panel_of(const Unit& unit, const Product& p, const Stream& stream) {
  Panel w{.unit = unit, .p = p, .stream = stream};
  const Source rows{.matrix = p.a, .items = p.m, .depth = p.k, .strip = unit.rows};
  const Source columns{
      .matrix = p.b, .items = p.n, .depth = p.k, .items_are_rows = false, .strip = unit.columns};
  w.outer_is_rows = p.m >= p.n;
  w.outer = w.outer_is_rows ? rows : columns;
  w.inner = w.outer_is_rows ? columns : rows;
  const int64_t step = step_depth(unit.packed);
  w.depth = round_up(cut(p.k, cut(p.k, unit.depth)), step);
  w.passes = cut(p.k, w.depth);
  w.steps = w.depth / step;
  // Several tasks where there is enough for them, so that threads of unequal speed end together.
  const int64_t strip = w.outer.strip, other = w.inner.strip;
  w.task_outer =
      std::clamp(round_up(cut(w.outer.items, kTasks), strip), strip, round_up(kMostOuter, strip));
  const int64_t wanted = cut(kTasks, cut(w.outer.items, w.task_outer));
  w.task_inner = std::clamp(round_up(cut(w.inner.items, wanted), other), round_up(128, other),
                            round_up(unit.inner, other));
  w.inner_tasks = cut(w.inner.items, w.task_inner);
  w.direct = keeps_sums_in_c(p);
  w.rows_in_place = can_read_in_place(unit, rows);
  w.packed_strip = cut(p.k, step) * w.inner.step_size();
  return w;
}

/// A block of sums inside C that does not fill the strips: through a copy.
void run_edge(const Unit& unit, const Rows& a, const Word* b, int64_t steps, float* c, int64_t ldc,
              int64_t rows, int64_t columns, bool add) {
  alignas(64) float edge[kLargestBlock] = {};
  const int64_t ld = unit.columns;
  if (add)
    for (int64_t r = 0; r < rows; ++r) std::copy_n(c + r * ldc, columns, edge + r * ld);
  unit.block(a, b, steps, edge, ld, rows, columns, add);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(edge + r * ld, columns, c + r * ldc);
}

/// Part of the result: rows and columns from `row` and `column` on.
struct Area {
  int64_t row, column, rows, columns;
};

/// The part where `outer` strips from `o` on meet `inner` ones from `i` on.
Area area_of(const Panel& w, int64_t o, int64_t i, int64_t outer, int64_t inner) {
  return w.outer_is_rows ? Area{o, i, outer, inner} : Area{i, o, inner, outer};
}

/// The finished sums of a part go to C.
void finish_area(const Panel& w, const Area& at, float* sums, int64_t ld) {
  if (w.p.alpha != 1)
    for (int64_t r = 0; r < at.rows; ++r)
      for (int64_t c = 0; c < at.columns; ++c) sums[r * ld + c] *= float(w.p.alpha);
  Finish f = w.p.out.at(at.row, at.column);
  f.source = sums;
  f.source_ld = ld;
  f.rows = at.rows;
  f.cols = at.columns;
  gemm_internal::finish(f);
}

/// Rows of A where they lie, from `row` on, in a pass.
Rows rows_in_place(const Panel& w, int64_t row, int64_t pass) {
  const int64_t per_word = 4 / int64_t(size_of(w.unit.packed));
  return {
      .at = in<Word>(w.p.a.at(row, pass * w.depth).data), .row = w.p.a.ld / per_word, .step = 16};
}

/// One pass of one strip of the outer operand over the inner strips of a task; `sums` holds the
/// strip's part of the result where that is not C.
void run_strip(const Panel& w, const Area& all, int64_t pass, const Word* strip, float* sums) {
  const int64_t inner0 = w.outer_is_rows ? all.column : all.row, width = w.inner.strip;
  const int64_t inner = w.outer_is_rows ? all.columns : all.rows;
  const int64_t steps = std::min(w.steps, cut(w.p.k, step_depth(w.unit.packed)) - pass * w.steps);
  const int64_t ld = w.direct          ? w.p.out.ldc
                     : w.outer_is_rows ? round_up(inner, width)
                                       : w.unit.columns;
  const bool add = pass > 0 || (w.direct && w.p.out.accumulate);
  float* c = w.direct ? out<float>(w.p.out.at(all.row, all.column).c) : sums;
  for (int64_t i = 0; i < inner; i += width, c += w.outer_is_rows ? width : width * ld) {
    const Word* other =
        w.packed + (inner0 + i) / width * w.packed_strip + pass * w.steps * w.inner.step_size();
    const Word* b = w.outer_is_rows ? other : strip;
    Rows a{.at = w.outer_is_rows ? strip : other, .step = w.unit.rows * 16};
    if (w.rows_in_place) a = rows_in_place(w, all.row + (w.outer_is_rows ? 0 : i), pass);
    const int64_t left = std::min(width, inner - i);
    const int64_t rows = w.outer_is_rows ? all.rows : left;
    const int64_t columns = w.outer_is_rows ? left : all.columns;
    if (w.direct && (columns < w.unit.columns || (w.unit.whole && rows < w.unit.rows)))
      run_edge(w.unit, a, b, steps, c, ld, rows, columns, add);
    else
      w.unit.block(a, b, steps, c, ld, rows, columns, add);
  }
  if (!w.direct && pass + 1 == w.passes) finish_area(w, all, sums, ld);
}

/// One block of the result: passes along the depth, strips of the outer operand within, packed
/// kTogether at a time.
void run_task(const Panel& w, int64_t outer0, int64_t inner0, Word* strips, float* memory) {
  const int64_t outer = std::min(w.task_outer, w.outer.items - outer0), height = w.outer.strip;
  const int64_t inner = std::min(w.task_inner, w.inner.items - inner0);
  const int64_t held = w.passes > 1 ? round_up(inner, w.inner.strip) : 0;  // per outer item
  const int64_t size = w.steps * w.outer.step_size();
  for (int64_t pass = 0; pass < w.passes; ++pass)
    for (int64_t o = 0; o < outer; o += height) {
      const int64_t at = o / height % kTogether;
      if (at == 0 && !(w.rows_in_place && w.outer_is_rows))
        pack(w.unit.packed, w.outer,
             {.item = outer0 + o,
              .strips = std::min(kTogether, cut(outer - o, height)),
              .depth = pass * w.depth,
              .steps = w.steps},
             size, strips);
      const Area all = area_of(w, outer0 + o, inner0, std::min(height, outer - o), inner);
      run_strip(w, all, pass, strips + at * size, memory + o * held);
    }
}

void run_tasks(const Panel& w) {
  const int64_t outer = w.passes > 1 ? w.task_outer : w.outer.strip;
  const int64_t held = w.direct ? 0 : outer * w.task_inner;
  const int64_t tasks = cut(w.outer.items, w.task_outer) * w.inner_tasks;
  const int64_t strip = w.steps * w.outer.step_size();
  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<Word> strips = w.stream.scratch<Word>(size_t(kTogether * strip));
    const Scratch<float> memory = w.stream.scratch<float>(size_t(held));
    if (w.unit.enter) w.unit.enter();
    for (int64_t t = begin; t < end; ++t)
      run_task(w, t / w.inner_tasks * w.task_outer, t % w.inner_tasks * w.task_inner, strips,
               memory);
    if (w.unit.leave) w.unit.leave();
  });
}

void run_panel(Panel w) {
  if (w.rows_in_place && !w.outer_is_rows) return run_tasks(w);
  const int64_t strips = cut(w.inner.items, w.inner.strip);
  const Scratch<Word> packed = w.stream.scratch<Word>(size_t(strips * w.packed_strip));
  const int64_t grain = std::max(kTogether, rows_per_range(w.packed_strip, 32768));
  parallel_for(strips, grain, [&](int64_t begin, int64_t end) {
    pack(w.unit.packed, w.inner,
         {.item = begin * w.inner.strip,
          .strips = end - begin,
          .depth = 0,
          .steps = cut(w.p.k, step_depth(w.unit.packed))},
         w.packed_strip, packed + begin * w.packed_strip);
  });
  w.packed = packed;
  run_tasks(w);
}

}  // namespace

void multiply(const Unit& unit, const Product& product, const Stream& stream) {
  const bool cut_rows = product.m < product.n;
  const int64_t inner = std::min(product.m, product.n);
  for (int64_t at = 0; at < inner; at += kPanel) {
    Product p = product;
    (cut_rows ? p.m : p.n) = std::min(kPanel, inner - at);
    (cut_rows ? p.a : p.b) = cut_rows ? product.a.at(at, 0) : product.b.at(0, at);
    p.out = cut_rows ? product.out.at(at, 0) : product.out.at(0, at);
    run_panel(panel_of(unit, p, stream));
  }
}

}  // namespace olm::kernels::gemm_tiles
