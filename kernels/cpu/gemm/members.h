#pragma once
// GEMMs side by side, and which implementation takes each.
#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/gemm/microkernel.h>

namespace olm::kernels::gemm {

/// What multiplies these operands; null where there is no microkernel for them, or nothing is
/// gained by it.
const MicroKernel* microkernel_for(const Problem& problem);

/// Runs a GEMM by the implementation that suits it: cut over the thread pool, or on the calling
/// thread as far as the implementation allows it.
void run_member(const Problem& problem, bool cut, const Stream& stream);

inline double flop_of(const Problem& p) { return 2.0 * double(p.m) * double(p.n) * double(p.k); }

// FLOP of a member from which on each is cut by itself; smaller ones are whole, side by side, as
// many to a task as make 1 MFLOP.
inline constexpr double kMinFlopToCut = 5e7, kTaskFlop = 1e6;

/// Runs problem_of(i) for i in [0, count), of `mean_flop` each on average.
template <class ProblemOf>
void run_members(int64_t count, double mean_flop, const Stream& stream,
                 const ProblemOf& problem_of) {
  const auto grain = int64_t(std::clamp(kTaskFlop / std::max(mean_flop, 1.0), 1.0, kTaskFlop));
  parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Problem p = problem_of(i);
      if (p.m > 0 && p.n > 0) run_member(p, count == 1 || flop_of(p) >= kMinFlopToCut, stream);
    }
  });
}

/// A bias in the type of the sums.
template <class A>
void widen_bias(DType dtype, const void* bias, int64_t n, A* to) {
  visit_float(dtype, [&]<class T>() {
    for (int64_t j = 0; j < n; ++j) to[j] = A(acc_t<T>(in<T>(bias)[j]));
  });
}

/// Throws where these do not go together.
void check_dtypes(const char* name, DType a, DType b, DType c);

}  // namespace olm::kernels::gemm
