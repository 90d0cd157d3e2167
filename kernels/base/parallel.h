#pragma once
// The one thread pool of the process: oneTBB, in an arena of `num_threads()`.
#include <cstdint>
#include <memory>
#include <type_traits>

#include <olm/kernels/base/error.h>
#include <olm/kernels/base/math.h>

namespace olm {

/// Sets how many threads CPU kernels use from now on; `n` >= 1, and no more run than there are
/// cores. Results do not depend on it.
OLM_API void set_threads(int n);
/// Threads in use: set_threads, else the environment's OLM_NUM_THREADS, else what the machine has.
OLM_API int num_threads();

namespace kernels {

/// A callable borrowed for the duration of a call.
class RangeFunction {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, RangeFunction>) RangeFunction(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, int64_t begin, int64_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}
  void operator()(int64_t begin, int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int64_t);
};

/// Calls body(begin, end) for the ranges [0,grain), [grain,2·grain), … that cover [0,n). The cut
/// depends on n and grain alone, so a result that is fixed per range is fixed for any number of
/// threads. Exceptions of the body reach the caller. May be nested.
OLM_API void parallel_for(int64_t n, int64_t grain, RangeFunction body);

/// Rows per range such that a range holds about `work` elements of rows with `cols` elements each.
constexpr int64_t rows_per_range(int64_t cols, int64_t work = 16384) {
  return cols >= work ? 1 : (cols <= 0 ? work : ceil_div(work, cols));
}

}  // namespace kernels
}  // namespace olm
