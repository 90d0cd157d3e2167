#include <olm/kernels/cpu/gemm/plan.h>

#include <unistd.h>

#include <algorithm>

#include <olm/kernels/base/math.h>
#include <olm/kernels/cpu/non_temporal.h>

namespace olm::kernels::gemm {
namespace {

/// NC, rows or columns of C: 24 MiB packed where K is cut (768 of f32, 1536 of bf16), as an L3 of
/// 32 MiB holds. Most GEMMs have less on their shorter side, and make one step of it.
constexpr int64_t kNC = 8192;

/// Tasks along i come in multiples of 16, so that 2, 4, 8 and 16 threads end together, and threads
/// of unequal speed nearly so.
constexpr int64_t kTasks = 16;
/// Rows or columns of C in a task along i: a packed panel is read once for so many.
constexpr int64_t kMaxTaskMC = 256;
/// Where there are fewer than kTasks tasks along i, j is cut too, but not below 128 rows or
/// columns: the block is packed once for each cut.
constexpr int64_t kMinTaskNC = 128;
/// Where sums are kept beside C each task reads the packed panel over all of K. From 16 KC on that
/// is too large for L3 and comes from memory for each task, so that fewer and wider ones are
/// faster, as long as the panel's side of C is at most kMaxTaskMC and the sums of a task stay in
/// L2.
constexpr int64_t kMinDeepPasses = 16, kDeepTasks = 4;

/// The block takes a quarter of L2. The rest is for the micro-panel of the panel that passes, the
/// one that follows (192 KiB each, microkernel_avx512.cpp), C, and what is prefetched.
constexpr int64_t kBlockShare = 4;
/// Bytes of a stored row that packing reads at least, where memory runs across K: four cache lines,
/// so that the next ones come by the processor's own prefetching.
constexpr int64_t kMinRunBytes = 256;

int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return int64_t(1) << 20;
}

bool can_sum_in_c(const Problem& p) {
  return p.epilogue.dtype == f32 && p.epilogue.only_stores() && p.alpha == 1;
}

/// True where C is large and written without being read: lines that are overwritten whole need not
/// come to the caches first.
bool wants_non_temporal(const Problem& p) {
  const Epilogue& e = p.epilogue;
  const auto on_line = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 64 == 0; };
  const bool whole_lines =
      on_line(e.c) && on_line(e.preactivation) && e.ldc * int64_t(size_of(e.dtype)) % 64 == 0;
  return whole_lines && !e.accumulate &&
         uses_non_temporal_stores(e.dtype, std::max(p.m * p.n, p.c_total));
}

/// True where there is nothing to transpose, convert or fill up in A, and its rows do not compete
/// for a few sets of L1: those of whole 4 KiB would, and, where the microkernel reads all of MR
/// rows at once, those of whole 1 KiB.
bool can_read_unpacked(const Operand& a, const MicroKernel& kernel) {
  const int64_t bytes = a.matrix.ld * int64_t(size_of(kernel.packed));
  return a.k_contiguous() && a.matrix.dtype == kernel.packed && bytes % 4 == 0 &&
         bytes / 64 % (kernel.full_tiles ? 16 : 64) != 0 &&
         (!kernel.full_tiles || a.extent % a.r == 0);
}

/// Tasks differ by one micro-panel at most.
void cut_tasks(GemmPlan& g) {
  const int64_t micro_panels = ceil_div(g.block.extent, g.block.r);
  const int64_t extent = std::min(g.nc, g.panel.extent);
  const bool deep = ceil_div(g.kp, g.kc) >= kMinDeepPasses && extent <= kMaxTaskMC;
  const int64_t tasks = deep ? kDeepTasks : kTasks;
  g.tasks_i = std::min(micro_panels, round_up(ceil_div(g.block.extent, kMaxTaskMC), tasks));
  g.task_mc = ceil_div(micro_panels, g.tasks_i) * g.block.r;
  const int64_t wanted = std::min(ceil_div(tasks, g.tasks_i), ceil_div(extent, kMinTaskNC));
  const int64_t tasks_j = std::max(wanted, ceil_div(extent, g.kernel.task_nc));
  g.task_nc = round_up(ceil_div(extent, tasks_j), g.panel.r);
}

/// As many micro-panels as L2 and the task have room for, at least those of kMinRunBytes.
int64_t block_extent(const GemmPlan& g) {
  const int64_t r = g.block.r, bytes = g.kc * r * int64_t(size_of(g.kernel.packed));
  const int64_t in_l2 = std::min(l2_bytes() / kBlockShare / bytes, g.task_mc / r);
  const int64_t run = r * int64_t(size_of(g.block.matrix.dtype));
  return std::max(in_l2, g.block.k_contiguous() ? 1 : ceil_div(kMinRunBytes, run)) * r;
}

}  // namespace

GemmPlan::GemmPlan(const MicroKernel& microkernel, const Problem& gemm)
    : kernel(microkernel), problem(gemm), block_is_a(gemm.m >= gemm.n) {
  const Operand a{.matrix = gemm.a, .extent = gemm.m, .k = gemm.k, .r = kernel.mr};
  const Operand b{.matrix = gemm.b, .extent = gemm.n, .k = gemm.k, .is_a = false, .r = kernel.nr};
  block = block_is_a ? a : b;
  panel = block_is_a ? b : a;
  sums_in_c = can_sum_in_c(gemm);
  non_temporal = wants_non_temporal(gemm);
  a_fits_microkernel_ = can_read_unpacked(a, kernel);
  // Even parts of K, so that the last one is not short.
  kc = round_up(ceil_div(gemm.k, ceil_div(gemm.k, kernel.kc)), tile_k(kernel.packed));
  kp = sums_in_c ? kc : gemm.k;
  nc = kNC;
  cut_tasks(*this);
  mc = block_extent(*this);
}

int64_t GemmPlan::tasks(int64_t jc) const {
  return tasks_i * ceil_div(std::min(nc, panel.extent - jc), task_nc);
}

Task GemmPlan::task(int64_t index, int64_t jc, int64_t pp) const {
  const int64_t micro_panels = ceil_div(block.extent, block.r), i = index % tasks_i;
  const int64_t j0 = jc + index / tasks_i * task_nc;
  return {.i0 = i * micro_panels / tasks_i * block.r,
          .i1 = std::min((i + 1) * micro_panels / tasks_i * block.r, block.extent),
          .j0 = j0,
          .j1 = std::min({j0 + task_nc, jc + nc, panel.extent}),
          .k0 = pp,
          .k1 = std::min(pp + kp, problem.k)};
}

bool GemmPlan::a_unpacked(int64_t pp) const {
  return a_fits_microkernel_ && std::min(kp, problem.k - pp) % tile_k(kernel.packed) == 0;
}

int64_t GemmPlan::block_stride() const { return kc / tile_k(kernel.packed) * block.tile_words(); }
int64_t GemmPlan::panel_stride() const {
  return ceil_div(kp, tile_k(kernel.packed)) * panel.tile_words();
}
int64_t GemmPlan::panel_words() const {
  const bool never = !block_is_a && a_fits_microkernel_ && problem.k % tile_k(kernel.packed) == 0;
  return never ? 0 : ceil_div(std::min(nc, panel.extent), panel.r) * panel_stride();
}
int64_t GemmPlan::panel_offset(int64_t j, int64_t k) const {
  return j / panel.r * panel_stride() + k / tile_k(kernel.packed) * panel.tile_words();
}

int64_t GemmPlan::sums_size() const {
  if (sums_in_c) return 0;
  const int64_t tiles = kp > kc ? task_mc / block.r * (task_nc / panel.r) : 1;
  return tiles * kernel.mr * kernel.nr;
}
int64_t GemmPlan::sums_offset(const Task& t, int64_t ir, int64_t jr) const {
  if (kp <= kc) return 0;
  const int64_t down = ceil_div(t.i1 - t.i0, block.r);
  const int64_t tile = (jr - t.j0) / panel.r * down + (ir - t.i0) / block.r;
  return tile * kernel.mr * kernel.nr;
}

}  // namespace olm::kernels::gemm
