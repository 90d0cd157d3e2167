// Products of a few rows with a matrix stored row by output, as a model that continues a text one
// token at a time asks for. The matrix is read once, as it is stored, four rows at a time; each
// output is one sum over the whole depth, whatever the number of threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/gemm_thin.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/gemm_internal.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using gemm_internal::Product;

constexpr int64_t kOutputs = 4;  // rows of the matrix that are read together

/// y[r, j] = x_r · w_j for M rows of x and four of w.
template <int M, class T>
HWY_INLINE void thin_products(const float* x, int64_t ldx, const T* const (&w)[kOutputs],
                              int64_t depth, float* y, int64_t ldy) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sum[M][kOutputs];
  for (auto& row : sum)
    for (auto& s : row) s = hn::Zero(d);
  for_vectors(d, depth, [&](int64_t i, auto part) HWY_ATTR {
    for (int64_t j = 0; j < kOutputs; ++j) {
      const auto wj = load(d, w[j] + i, part);
      for (int64_t r = 0; r < M; ++r)
        sum[r][j] = hn::MulAdd(load(d, x + r * ldx + i, part), wj, sum[r][j]);
    }
  });
  for (int64_t r = 0; r < M; ++r)
    for (int64_t j = 0; j < kOutputs; ++j)
      y[r * ldy + j] = hn::GetLane(hn::SumOfLanes(d, sum[r][j]));
}

/// Outputs [begin, end) into y [rows, …] with rows of `ld`, which may run on to a multiple of four.
template <class T>
void thin_range(const Product& p, const float* x, int64_t begin, int64_t end, float* y,
                int64_t ld) {
  for (int64_t j = begin; j < end; j += kOutputs, y += kOutputs) {
    const T* w[kOutputs];
    for (int64_t i = 0; i < kOutputs; ++i)
      w[i] = in<T>(p.b.data) + std::min(j + i, end - 1) * p.b.ld;
    int64_t r = 0;
    for (; r + 4 <= p.m; r += 4) thin_products<4>(x + r * p.k, p.k, w, p.k, y + r * ld, ld);
    for (; r + 2 <= p.m; r += 2) thin_products<2>(x + r * p.k, p.k, w, p.k, y + r * ld, ld);
    if (r < p.m) thin_products<1>(x + r * p.k, p.k, w, p.k, y + r * ld, ld);
  }
}

void thin_outputs(const Product& p, const float* x, int64_t begin, int64_t end, float* y,
                  int64_t ld) {
  visit_float(p.b.dtype, [&]<class T>() HWY_ATTR {
    if constexpr (sizeof(acc_t<T>) == sizeof(float)) thin_range<T>(p, x, begin, end, y, ld);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels::gemm_internal {
HWY_EXPORT(thin_outputs);

bool is_thin(const Product& p) {
  return p.m < 8 && p.k > 0 && !p.a.transposed && p.b.transposed && p.a.dtype != f64;
}

void run_thin(const Product& p, const Stream& stream) {
  const bool tight = p.a.dtype == f32 && (p.a.ld == p.k || p.m == 1);
  const Scratch<float> wide = stream.scratch<float>(size_t(tight ? 0 : p.m * p.k));
  if (!tight) widen(p.a.dtype, p.a.data, p.a.ld, wide, p.m, p.k);
  const float* x = tight ? in<float>(p.a.data) : wide.get();
  const int64_t grain = (rows_per_range(p.k, 32768) + 3) / 4 * 4;
  parallel_for(p.n, grain, [&](int64_t begin, int64_t end) {
    const Scratch<float> sums = stream.scratch<float>(size_t(p.m * grain));
    HWY_DYNAMIC_DISPATCH(thin_outputs)(p, x, begin, end, sums, grain);
    if (p.alpha != 1)
      for (int64_t i = 0; i < p.m * grain; ++i) sums[i] *= float(p.alpha);
    Finish f = p.out.at(0, begin);
    f.source = sums.get();
    f.source_ld = grain;
    f.rows = p.m;
    f.cols = end - begin;
    finish(f);
  });
}

}  // namespace olm::kernels::gemm_internal
#endif  // HWY_ONCE
