// The driver of products on tiles. The operand of the shorter side of the result is packed whole, a
// panel at a time; tasks are blocks of the result, and pack each strip of the other operand when
// they come to it. Sums of a block stay in f32 over all passes along the depth, and are finished
// into C while they are in the cache.
#include <olm/kernels/cpu/gemm_tiles.h>

#include <unistd.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/streaming.h>

namespace olm::kernels::gemm_tiles {
namespace {

using gemm_internal::Finish;
using gemm_internal::Product;

constexpr int64_t kPanel = 8192;  // most inner items that are packed at a time
// Tasks: a multiple of so many along the outer side where there are strips for them, of about so
// many items at most; where they are fewer than kFewest the inner side is cut too, but not into
// less than kLeastInner. Where the depth takes kManyPasses, the inner operand comes from memory
// again for each task: kFew, if that operand has few items.
constexpr int64_t kTasks = 16, kMostOuter = 256, kFewest = 16, kLeastInner = 128;
constexpr int64_t kManyPasses = 16, kFew = 4;
constexpr int64_t kRun = 256;               // bytes of a row of memory to read at once
constexpr int64_t kLargestBlock = 64 * 64;  // of any unit
constexpr int64_t kGroups = 4;              // of outer strips that would fill the second cache

/// Bytes of the second nearest cache of a core.
int64_t second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return int64_t(1) << 20;
}

int64_t cut(int64_t n, int64_t size) { return (n + size - 1) / size; }
int64_t round_up(int64_t n, int64_t to) { return cut(n, to) * to; }

/// A panel of the product, and how it is divided: by its shape and the unit alone; only the order
/// in which blocks are met depends on the caches. Its outer side is rows or columns, whichever are
/// more; strips along it are packed by the tasks.
struct Panel {
  const Unit& unit;
  Product p;
  const Stream& stream;
  bool outer_is_rows = true;
  Source outer = {}, inner = {};
  int64_t passes = 0, depth = 0, steps = 0;  // depth and steps of a pass
  int64_t task_outer = 0, task_inner = 0;    // most items of a task along the two sides
  int64_t outer_tasks = 0, inner_tasks = 0;  // how many lie along them
  int64_t together = 1;                      // outer strips that are packed together
  bool direct = false;                       // sums are kept in C itself
  bool past_caches = false;                  // results are written past the caches
  bool rows_in_place = false;                // A is read where it lies
  const Word* packed = nullptr;              // the inner operand
  int64_t packed_strip = 0;                  // size of one strip of it
};

bool keeps_sums_in_c(const Product& p) {
  const Finish& o = p.out;
  return o.dtype == f32 && o.activation == Activation::none && !o.bias && !o.residual &&
         !o.preactivation && p.alpha == 1;
}

/// True where C is large and written once: lines that are written whole need not be read first.
bool goes_past_caches(const Product& p) {
  const Finish& o = p.out;
  const auto on_line = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 64 == 0; };
  const bool whole_lines =
      on_line(o.c) && on_line(o.preactivation) && o.ldc * int64_t(size_of(o.dtype)) % 64 == 0;
  return whole_lines && !o.accumulate && writes_past_caches(o.dtype, p.m * p.n);
}

/// True where A can be read where it lies: there is nothing to turn, round or fill up, and its rows
/// do not compete for a few sets of the nearest cache, as rows of whole 4 KiB would, and where a
/// unit reads whole strips at once those of whole 1 KiB.
bool can_read_in_place(const Unit& unit, const Source& rows) {
  const int64_t bytes = rows.matrix.ld * int64_t(size_of(unit.packed));
  return rows.runs_along_depth() && rows.matrix.dtype == unit.packed &&
         rows.depth % step_depth(unit.packed) == 0 && bytes % 4 == 0 &&
         bytes / 64 % (unit.whole ? 16 : 64) != 0 && (!unit.whole || rows.items % rows.strip == 0);
}

/// Tasks that differ by one strip at most, enough of them that threads of unequal speed end
/// together.
void cut_tasks(Panel& w) {
  const int64_t strip = w.outer.strip, strips = cut(w.outer.items, strip);
  const bool deep = w.passes >= kManyPasses && w.inner.items <= kMostOuter;
  const int64_t tasks = deep ? kFew : kTasks;
  w.outer_tasks = std::min(strips, round_up(cut(w.outer.items, kMostOuter), tasks));
  w.task_outer = cut(strips, w.outer_tasks) * strip;
  const int64_t wanted =
      std::min(cut(deep ? kFew : kFewest, w.outer_tasks), cut(w.inner.items, kLeastInner));
  const int64_t parts = std::max(wanted, cut(w.inner.items, w.unit.inner));
  w.task_inner = round_up(cut(w.inner.items, parts), w.inner.strip);
  w.inner_tasks = cut(w.inner.items, w.task_inner);
  const int64_t run = strip * int64_t(size_of(w.outer.matrix.dtype));
  w.together = w.outer.runs_along_depth() ? 1 : cut(kRun, run);
  const int64_t bytes = w.depth * strip * int64_t(size_of(w.unit.packed));
  const int64_t group = std::min(second_cache() / kGroups / bytes, w.task_outer / strip);
  w.together = std::max(w.together, group);
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
  cut_tasks(w);
  w.direct = keeps_sums_in_c(p);
  w.past_caches = (!w.direct || w.passes == 1) && goes_past_caches(p);
  w.rows_in_place = can_read_in_place(unit, rows);
  w.packed_strip = cut(p.k, step) * w.inner.step_size();
  return w;
}

/// A block of sums inside C that does not fill the strips: through a copy.
void run_edge(const Unit& unit, const Rows& a, const Word* b, int64_t steps, const Sums& c,
              int64_t rows, int64_t columns, Ahead& ahead) {
  alignas(64) float edge[kLargestBlock] = {};
  const int64_t ld = unit.columns;
  if (c.add)
    for (int64_t r = 0; r < rows; ++r) std::copy_n(c.at + r * c.row, columns, edge + r * ld);
  unit.run(a, b, steps, {.at = edge, .row = ld, .add = c.add}, rows, columns, ahead);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(edge + r * ld, columns, c.at + r * c.row);
}

/// Part of the result: rows and columns from `row` and `column` on.
struct Area {
  int64_t row, column, rows, columns;
};

/// The part where `outer` items from `o` on meet `inner` ones from `i` on.
Area area_of(const Panel& w, int64_t o, int64_t i, int64_t outer, int64_t inner) {
  return w.outer_is_rows ? Area{o, i, outer, inner} : Area{i, o, inner, outer};
}

/// The finished sums of a block go to C.
void finish_block(const Panel& w, const Area& at, float* sums) {
  const int64_t ld = w.unit.columns;
  if (w.p.alpha != 1)
    for (int64_t r = 0; r < at.rows; ++r)
      for (int64_t c = 0; c < at.columns; ++c) sums[r * ld + c] *= float(w.p.alpha);
  Finish f = w.p.out.at(at.row, at.column);
  f.source = sums;
  f.source_ld = ld;
  f.rows = at.rows;
  f.cols = at.columns;
  f.past_caches = w.past_caches;
  gemm_internal::finish(f);
}

/// Rows of A where they lie, from `row` on, in a pass.
Rows rows_in_place(const Panel& w, int64_t row, int64_t pass) {
  const int64_t per_word = 4 / int64_t(size_of(w.unit.packed));
  return {
      .at = in<Word>(w.p.a.at(row, pass * w.depth).data), .row = w.p.a.ld / per_word, .step = 16};
}

/// One pass over one block of the result, strip by strip; `sums` are its own where that is not C.
void run_block(const Panel& w, const Area& at, int64_t pass, const Word* outer, float* sums,
               Ahead& ahead) {
  const int64_t inner = (w.outer_is_rows ? at.column : at.row) / w.inner.strip;
  const int64_t offset = inner * w.packed_strip + pass * w.steps * w.inner.step_size();
  const Word* other = w.packed ? w.packed + offset : nullptr;
  const Word* b = w.outer_is_rows ? other : outer;
  Rows a{.at = w.outer_is_rows ? outer : other, .step = w.unit.rows * 16};
  if (w.rows_in_place) a = rows_in_place(w, at.row, pass);
  const int64_t steps = std::min(w.steps, cut(w.p.k, step_depth(w.unit.packed)) - pass * w.steps);
  const bool add = pass > 0 || (w.direct && w.p.out.accumulate);
  if (!w.direct) {
    const Sums own{.at = sums, .row = w.unit.columns, .add = add};
    w.unit.run(a, b, steps, own, at.rows, at.columns, ahead);
    if (pass + 1 == w.passes) finish_block(w, at, sums);
    return;
  }
  const Sums c{.at = out<float>(w.p.out.at(at.row, at.column).c),
               .row = w.p.out.ldc,
               .add = add,
               .past_caches = w.past_caches};
  const bool edge = at.columns < w.unit.columns || (w.unit.whole && at.rows < w.unit.rows);
  if (edge) return run_edge(w.unit, a, b, steps, c, at.rows, at.columns, ahead);
  w.unit.run(a, b, steps, c, at.rows, at.columns, ahead);
}

/// The memory that a part of the outer operand is read from, to be asked for over so many blocks.
Ahead ahead_of(const Source& s, const Part& part, int64_t depth, int64_t blocks) {
  const bool along = s.runs_along_depth();
  const int64_t items = std::min(part.strips * s.strip, s.items - part.item);
  const int64_t deep = std::min(depth, s.depth - part.depth);
  const int64_t size = int64_t(size_of(s.matrix.dtype));
  const auto row = [&](int64_t item, int64_t depth) {
    return s.items_are_rows ? s.matrix.at(item, depth) : s.matrix.at(depth, item);
  };
  Ahead ahead{.at = static_cast<const char*>(row(part.item, part.depth).data),
              .bytes = (along ? deep : items) * size,
              .stride = s.matrix.ld * size,
              .rows = along ? items : deep};
  ahead.lines = cut(ahead.rows * cut(ahead.bytes, Ahead::kLine), blocks);
  return ahead;
}

/// A part of the result that a thread computes, cut along the outer side into groups of strips that
/// are packed together. Tasks that follow each other share the inner side.
struct Task {
  int64_t outer0 = 0, inner0 = 0, outer = 0, inner = 0;
};

Task task_of(const Panel& w, int64_t index) {
  const int64_t strips = cut(w.outer.items, w.outer.strip), outer = index % w.outer_tasks;
  const int64_t outer0 = outer * strips / w.outer_tasks * w.outer.strip;
  const int64_t outer1 = (outer + 1) * strips / w.outer_tasks * w.outer.strip;
  const int64_t inner0 = index / w.outer_tasks * w.task_inner;
  return {outer0, inner0, std::min(outer1, w.outer.items) - outer0,
          std::min(w.task_inner, w.inner.items - inner0)};
}

/// The group of outer strips from item `o` of a task on, in a pass.
Part group_of(const Panel& w, const Task& t, int64_t o, int64_t pass) {
  return {.item = t.outer0 + o,
          .strips = std::min(w.together, cut(t.outer - o, w.outer.strip)),
          .depth = pass * w.depth,
          .steps = w.steps};
}

/// What follows the group from `o` on: the next one of the task, its next pass, or the next task.
Part group_after(const Panel& w, const Task& t, const Task& next, int64_t o, int64_t pass) {
  o += w.together * w.outer.strip;
  if (o < t.outer) return group_of(w, t, o, pass);
  if (pass + 1 < w.passes) return group_of(w, t, 0, pass + 1);
  return group_of(w, next, 0, 0);
}

/// A group of strips of the outer operand over the inner strips of a task: each of these comes to
/// the second nearest cache once for the group.
void run_group(const Panel& w, const Task& t, const Part& group, int64_t pass, const Word* strips,
               float* sums, Ahead ahead) {
  const int64_t height = w.outer.strip, width = w.inner.strip, size = w.steps * w.outer.step_size();
  const int64_t block = !w.direct && w.passes > 1 ? w.unit.rows * w.unit.columns : 0;
  for (int64_t i = 0; i < t.inner; i += width)
    for (int64_t n = 0; n < group.strips; ++n, sums += block) {
      const int64_t o = group.item + n * height, rest = t.outer0 + t.outer - o;
      run_block(w,
                area_of(w, o, t.inner0 + i, std::min(height, rest), std::min(width, t.inner - i)),
                pass, strips + n * size, sums, ahead);
    }
}

/// Passes along the depth, groups of outer strips within. While a group is multiplied the next
/// one's memory is asked for.
void run_task(const Panel& w, const Task& t, const Task& next, Word* strips, float* memory) {
  const int64_t size = w.steps * w.outer.step_size(), height = w.together * w.outer.strip;
  const int64_t across = cut(t.inner, w.inner.strip);
  for (int64_t pass = 0; pass < w.passes; ++pass) {
    float* sums = memory;
    for (int64_t o = 0; o < t.outer; o += height) {
      const Part group = group_of(w, t, o, pass), after = group_after(w, t, next, o, pass);
      if (!(w.rows_in_place && w.outer_is_rows)) pack(w.unit.packed, w.outer, group, size, strips);
      const int64_t blocks = group.strips * across;
      run_group(w, t, group, pass, strips, sums, ahead_of(w.outer, after, w.depth, blocks));
      if (!w.direct && w.passes > 1) sums += blocks * w.unit.rows * w.unit.columns;
    }
  }
}

void run_tasks(const Panel& w) {
  const int64_t blocks =
      w.passes > 1 ? cut(w.task_outer, w.outer.strip) * cut(w.task_inner, w.inner.strip) : 1;
  const int64_t sums = w.direct ? 0 : blocks * w.unit.rows * w.unit.columns;
  const int64_t tasks = w.outer_tasks * w.inner_tasks;
  const int64_t strip = w.steps * w.outer.step_size();
  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<Word> strips = w.stream.scratch<Word>(size_t(w.together * strip));
    const Scratch<float> memory = w.stream.scratch<float>(size_t(sums));
    if (w.unit.enter) w.unit.enter();
    for (int64_t t = begin; t < end; ++t)
      run_task(w, task_of(w, t), task_of(w, std::min(t + 1, tasks - 1)), strips, memory);
    if (w.unit.leave) w.unit.leave();
  });
}

void run_panel(Panel w) {
  if (w.rows_in_place && !w.outer_is_rows) return run_tasks(w);
  const int64_t strips = cut(w.inner.items, w.inner.strip);
  const Scratch<Word> packed = w.stream.scratch<Word>(size_t(strips * w.packed_strip));
  const int64_t grain = std::max<int64_t>(4, rows_per_range(w.packed_strip, 32768));
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

/// Cuts a deep product along the depth where C keeps its sums: what is packed of a slice stays in
/// the last cache while all tasks read it.
template <class Run>
void for_slices(const Unit& unit, const Product& product, Run&& run) {
  const int64_t most = keeps_sums_in_c(product) ? unit.depth : product.k;
  const int64_t slices = std::max<int64_t>(1, cut(product.k, std::max<int64_t>(1, most)));
  const int64_t depth = round_up(cut(product.k, slices), step_depth(unit.packed));
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t at = i * depth;
    Product p = product;
    p.a = product.a.at(0, at);
    p.b = product.b.at(at, 0);
    p.k = std::min(depth, product.k - at);
    p.out.accumulate = at > 0 || product.out.accumulate;
    run(p);
  }
}

}  // namespace

void multiply(const Unit& unit, const Product& product, const Stream& stream) {
  for_slices(unit, product, [&](const Product& slice) {
    const bool cut_rows = slice.m < slice.n;
    const int64_t inner = std::min(slice.m, slice.n);
    for (int64_t at = 0; at < inner; at += kPanel) {
      Product p = slice;
      (cut_rows ? p.m : p.n) = std::min(kPanel, inner - at);
      (cut_rows ? p.a : p.b) = cut_rows ? slice.a.at(at, 0) : slice.b.at(0, at);
      p.out = cut_rows ? slice.out.at(at, 0) : slice.out.at(0, at);
      run_panel(panel_of(unit, p, stream));
    }
  });
}

}  // namespace olm::kernels::gemm_tiles
