// GEMM in five loops around a microkernel (Goto & van de Geijn, "Anatomy of high-performance matrix
// multiplication", 2008; van Zee & van de Geijn, "BLIS", 2015):
//
//   loop  step  packs                        cache
//   jc    NC
//   pp    KP    the panel of B, KP x NC      L3, shared by all threads
//   -- tasks: parts of the panel's columns and of the rows of C, on all threads --
//   pc    KC
//   ic    MC    the block of A, MC x KC      L2
//   jr    NR                                 L2 (AMX: L1): a micro-panel of B, KC x NR
//   ir    MR                                 L1: a micro-panel of A; registers: a tile of C
//
// Where C has more columns than rows A and B change places, see GemmPlan.
#include <olm/kernels/cpu/gemm/blocked.h>

#include <algorithm>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/gemm/plan.h>

namespace olm::kernels::gemm {
namespace {

constexpr int64_t kMaxTile = 64 * 64;  // MR · NR of any microkernel is at most this

/// Elements along K from `begin` on that one call of the microkernel takes.
struct KRange {
  int64_t begin = 0, tiles = 0;
  bool first = false, last = false;  // of all of K
};

/// The tile of C at `row` and `col`.
struct Place {
  int64_t row = 0, col = 0, rows = 0, cols = 0;
};

Place place_of(const GemmPlan& g, const Task& t, int64_t ir, int64_t jr) {
  const int64_t along_i = std::min(g.block.r, t.i1 - ir), along_j = std::min(g.panel.r, t.j1 - jr);
  return g.block_is_a ? Place{ir, jr, along_i, along_j} : Place{jr, ir, along_j, along_i};
}

/// Finished sums, MR x NR, go to C.
void apply_epilogue(const GemmPlan& g, const Place& at, float* sums) {
  const int64_t ld = g.kernel.nr;
  if (g.problem.alpha != 1)
    for (int64_t r = 0; r < at.rows; ++r)
      for (int64_t c = 0; c < at.cols; ++c) sums[r * ld + c] *= float(g.problem.alpha);
  Epilogue epilogue = g.problem.epilogue.at(at.row, at.col);
  epilogue.non_temporal = g.non_temporal;
  apply(epilogue, {.data = sums, .ld = ld, .rows = at.rows, .cols = at.cols});
}

/// A tile at an edge of C, past which the microkernel would write: by way of a whole one, which the
/// microkernel then does not have to know about.
void run_edge_tile(const MicroKernel& kernel, const AMicroPanel& a, const Word* b, int64_t k_tiles,
                   const CTile& c, Prefetch& prefetch) {
  alignas(64) float whole[kMaxTile] = {};
  CTile tile = c;
  tile.data = whole;
  tile.ld = kernel.nr;
  tile.non_temporal = false;
  if (c.accumulate)
    for (int64_t r = 0; r < c.rows; ++r)
      std::copy_n(c.data + r * c.ld, c.cols, whole + r * tile.ld);
  kernel.run(a, b, k_tiles, tile, prefetch);
  for (int64_t r = 0; r < c.rows; ++r) std::copy_n(whole + r * tile.ld, c.cols, c.data + r * c.ld);
}

/// One call of the microkernel, into C or into `sums`, and the epilogue at the end of K.
void run_tile(const GemmPlan& g, const Place& at, const AMicroPanel& a, const Word* b,
              const KRange& k, float* sums, Prefetch& prefetch) {
  const MicroKernel& kernel = g.kernel;
  CTile c{.rows = at.rows, .cols = at.cols};
  if (!g.sums_in_c) {
    c.data = sums;
    c.ld = kernel.nr;
    c.accumulate = !k.first;
    kernel.run(a, b, k.tiles, c, prefetch);
    if (k.last) apply_epilogue(g, at, sums);
    return;
  }
  const Epilogue epilogue = g.problem.epilogue.at(at.row, at.col);
  c.data = out<float>(epilogue.c);
  c.ld = epilogue.ldc;
  c.accumulate = !k.first || epilogue.accumulate;
  c.non_temporal = g.non_temporal && !c.accumulate;
  const bool edge = at.cols < kernel.nr || (kernel.full_tiles && at.rows < kernel.mr);
  if (edge) return run_edge_tile(kernel, a, b, k.tiles, c, prefetch);
  kernel.run(a, b, k.tiles, c, prefetch);
}

KRange k_range(const GemmPlan& g, const Task& t, int64_t pc) {
  return {.begin = pc,
          .tiles = ceil_div(std::min(g.kc, t.k1 - pc), tile_k(g.kernel.packed)),
          .first = pc == 0,
          .last = pc + g.kc >= g.problem.k};
}

/// The block of a task at ic and pc, and the one that is packed after it: the task's next, that of
/// its next part of K, or the first of the next task.
PackRange block_range(const GemmPlan& g, const Task& t, int64_t ic, int64_t pc) {
  return {.begin = ic,
          .micro_panels = ceil_div(std::min(g.mc, t.i1 - ic), g.block.r),
          .k = pc,
          .k_tiles = k_range(g, t, pc).tiles};
}
PackRange range_after(const GemmPlan& g, const Task& t, const Task& next, int64_t ic, int64_t pc) {
  if (ic + g.mc < t.i1) return block_range(g, t, ic + g.mc, pc);
  if (pc + g.kc < t.k1) return block_range(g, t, t.i0, pc + g.kc);
  return block_range(g, next, next.i0, next.k0);
}

/// Brings what a block is packed from to L2, in equal parts during so many calls of the
/// microkernel.
Prefetch prefetch_of(const GemmPlan& g, const PackRange& range, int64_t calls) {
  const Operand& x = g.block;
  const int64_t extent = std::min(range.micro_panels * x.r, x.extent - range.begin);
  const int64_t deep = std::min(g.kc, x.k - range.k), size = int64_t(size_of(x.matrix.dtype));
  Prefetch prefetch{.row = static_cast<const char*>(x.at(range.begin, range.k)),
                    .bytes = (x.k_contiguous() ? deep : extent) * size,
                    .stride = x.matrix.ld * size,
                    .rows = x.k_contiguous() ? extent : deep};
  prefetch.lines = ceil_div(prefetch.rows * ceil_div(prefetch.bytes, Prefetch::kLine), calls);
  return prefetch;
}

/// Packs the panel at jc and pp, by all threads.
void pack_panel(const GemmPlan& g, int64_t jc, int64_t pp, Word* to) {
  const int64_t micro_panels = ceil_div(std::min(g.nc, g.panel.extent - jc), g.panel.r);
  const int64_t k_tiles = ceil_div(std::min(g.kp, g.panel.k - pp), tile_k(g.kernel.packed));
  const int64_t stride = g.panel_stride();
  // Tens of microseconds; and four neighbours, so that stored rows are read in runs where memory
  // runs across K.
  const int64_t grain = std::max<int64_t>(4, rows_per_range(stride, 32768));
  parallel_for(micro_panels, grain, [&](int64_t begin, int64_t end) {
    const PackRange range{jc + begin * g.panel.r, end - begin, pp, k_tiles};
    pack(g.kernel.packed, g.panel, range, stride, to + begin * stride);
  });
}

/// A where it lies, from `row` and element `k` on.
AMicroPanel unpacked_a(const GemmPlan& g, int64_t row, int64_t k) {
  const int64_t per_word = int64_t(sizeof(Word) / size_of(g.kernel.packed));
  const Matrix& a = g.problem.a;
  return {
      .data = in<Word>(a.at(row, k).data), .row_stride = a.ld / per_word, .tile_stride = kTileSide};
}

}  // namespace

void run_blocked(const MicroKernel& kernel, const Problem& problem, const Stream& stream) {
  const GemmPlan g(kernel, problem);
  const Scratch<Word> panel = stream.scratch<Word>(size_t(g.panel_words()));
  for (int64_t jc = 0; jc < g.panel.extent; jc += g.nc) {
    // K is cut at two levels. Where C holds the sums KP is KC, and the loop over pc runs once: the
    // panel that tasks share is small enough for L3. Where C cannot, because an epilogue or another
    // dtype is to come, KP is all of K, and a task keeps its sums beside C from one KC to the next.
    for (int64_t pp = 0; pp < problem.k; pp += g.kp) {
      const bool a_unpacked = g.a_unpacked(pp);
      if (g.block_is_a || !a_unpacked) pack_panel(g, jc, pp, panel);
      const int64_t tasks = g.tasks(jc);
      parallel_for(tasks, 1, [&](int64_t index, int64_t) {
        const Task task = g.task(index, jc, pp);
        const Task next = g.task(std::min(index + 1, tasks - 1), jc, pp);
        const Scratch<Word> block = stream.scratch<Word>(size_t(g.block_words()));
        const Scratch<float> sums = stream.scratch<float>(size_t(g.sums_size()));
        const MicroKernelInUse in_use(&kernel);
        for (int64_t pc = task.k0; pc < task.k1; pc += g.kc) {
          const KRange k = k_range(g, task, pc);
          for (int64_t ic = task.i0; ic < task.i1; ic += g.mc) {
            const PackRange range = block_range(g, task, ic, pc);
            if (!g.block_is_a || !a_unpacked)
              pack(kernel.packed, g.block, range, g.block_stride(), block);
            // While this block is multiplied, what the next is packed from comes to L2.
            const int64_t calls = range.micro_panels * ceil_div(task.j1 - task.j0, g.panel.r);
            Prefetch prefetch = prefetch_of(g, range_after(g, task, next, ic, pc), calls);
            for (int64_t jr = task.j0; jr < task.j1; jr += g.panel.r) {
              const int64_t in_panel = g.panel_offset(jr - jc, pc - pp);
              for (int64_t ir = ic; ir < std::min(ic + g.mc, task.i1); ir += g.block.r) {
                const int64_t in_block = g.block_offset(ir - ic);
                const Place at = place_of(g, task, ir, jr);
                AMicroPanel a{.tile_stride = kernel.mr * kTileSide};
                if (a_unpacked)
                  a = unpacked_a(g, at.row, pc);
                else
                  a.data = g.block_is_a ? block + in_block : panel + in_panel;
                const Word* b = g.block_is_a ? panel + in_panel : block + in_block;
                run_tile(g, at, a, b, k, sums + g.sums_offset(task, ir, jr), prefetch);
              }
            }
          }
        }
      });
    }
  }
}

}  // namespace olm::kernels::gemm
