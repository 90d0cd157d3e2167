// Groups of rows are GEMMs side by side, each by the implementation that suits its size: the matrix
// of a group is packed once. Small groups are whole on one thread, and large ones are cut by their
// own shape, so that all threads help where one group has most rows.
#include <algorithm>
#include <climits>

#include <olm/kernels/cpu/gemm/members.h>
#include <olm/kernels/grouped_gemm.h>

namespace olm::kernels {
namespace {

using gemm::advance;
using gemm::Problem;

void check_offsets(const char* name, const int32_t* offsets, int64_t groups, int64_t rows) {
  for (int64_t g = 0; g <= groups; ++g)
    require(offsets[g] >= (g ? offsets[g - 1] : 0), name, ": offsets must not fall, got ",
            offsets[g], " after ", g ? offsets[g - 1] : 0);
  require(offsets[groups] <= rows, name, ": offsets end at ", offsets[groups], " of ", rows,
          " rows");
}

/// The rows of group i, times its matrix; `bias` is in acc_dtype of C.
Problem rows_of(const GroupedGemm& g, int64_t i, const void* bias) {
  const int64_t first = g.offsets[i], end = g.offsets[i + 1];
  Problem p{.m = end - first, .n = g.n, .k = g.k, .c_total = g.rows * g.n};
  p.a = {advance(g.a, first * g.k, g.a_dtype), g.a_dtype, g.k, false};
  p.b = {g.b_list[i], g.b_dtype, g.transpose_b ? g.k : g.n, g.transpose_b};
  p.epilogue = {.dtype = g.c_dtype,
                .c = advance(g.c, first * g.n, g.c_dtype),
                .bias = bias,
                .ldc = g.n,
                .activation = g.activation};
  if (g.preactivation) p.epilogue.preactivation = advance(g.preactivation, first * g.n, g.c_dtype);
  return p;
}

/// The gradient of the matrix of group i. One that is not wanted, or has nothing to add, has size
/// 0.
Problem depth_of(const GroupedGemm& g, int64_t i) {
  const int64_t first = g.offsets[i], end = g.offsets[i + 1];
  const bool adds = g.accumulate && g.accumulate[i];
  if (g.c_list[i] == nullptr || (adds && first == end)) return {};
  Problem p{.m = g.k, .n = g.n, .k = end - first, .c_total = g.groups * g.k * g.n};
  p.a = {advance(g.a, first * g.k, g.a_dtype), g.a_dtype, g.k, true};
  p.b = {advance(g.b, first * g.n, g.b_dtype), g.b_dtype, g.n, false};
  p.epilogue = {.dtype = g.c_dtype, .c = g.c_list[i], .ldc = g.n, .accumulate = adds};
  return p;
}

template <class A>
void run_rows(const GroupedGemm& g, double mean_flop) {
  const bool convert = g.bias_list != nullptr && g.bias_dtype != dtype_of<A>;
  const Scratch<A> converted = g.stream.scratch<A>(size_t(convert ? g.groups * g.n : 0));
  for (int64_t i = 0; convert && i < g.groups; ++i)
    gemm::widen_bias(g.bias_dtype, g.bias_list[i], g.n, converted.get() + i * g.n);
  gemm::run_members(g.groups, mean_flop, g.stream, [&](int64_t i) {
    const void* own = g.bias_list ? g.bias_list[i] : nullptr;
    return rows_of(g, i, convert ? converted.get() + i * g.n : own);
  });
}

}  // namespace

void check(const GroupedGemm& g) {
  gemm::check_dtypes(g.name, g.a_dtype, g.b_dtype, g.c_dtype);
  require(std::min({g.rows, g.n, g.k}) >= 0 && std::max({g.rows, g.n, g.k}) <= INT_MAX,
          "grouped_gemm: sizes ", g.rows, " x ", g.n, " x ", g.k,
          " do not fit the matrix library's integers");
}

void run(Cpu, const GroupedGemm& g) {
  if (g.groups <= 0) return;
  check(g);
  check_offsets(g.name, g.offsets, g.groups, g.rows);
  if (g.n == 0 || (g.by_depth ? g.k : g.rows) == 0) return;
  const double flop = 2.0 * double(g.rows) * double(g.n) * double(g.k),
               mean = flop / double(g.groups);
  if (g.by_depth)
    gemm::run_members(g.groups, mean, g.stream, [&](int64_t i) { return depth_of(g, i); });
  else if (g.c_dtype == f64)
    run_rows<double>(g, mean);
  else
    run_rows<float>(g, mean);
}

void run(Cpu, const GroupedGemmEpilogueBackward& k) {
  if (k.groups <= 0) return;
  check_offsets(k.name, k.offsets, k.groups, k.rows);
  parallel_for(k.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = k.offsets[g];
      const auto placed = [&](auto pointer) {
        return pointer ? decltype(pointer)(advance(pointer, first * k.cols, k.dtype)) : nullptr;
      };
      run(Cpu{}, GemmEpilogueBackward{.dtype = k.dtype,
                                      .dy = placed(k.dy),
                                      .z = placed(k.z),
                                      .dz = placed(k.dz),
                                      .dbias = k.dbias_list ? k.dbias_list[g] : nullptr,
                                      .rows = k.offsets[g + 1] - first,
                                      .cols = k.cols,
                                      .activation = k.activation,
                                      .accumulate = k.accumulate && k.accumulate[g],
                                      .stream = k.stream});
    }
  });
}

}  // namespace olm::kernels
