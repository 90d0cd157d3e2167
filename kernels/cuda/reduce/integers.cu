// Reductions of i32 and i64: sums wrap, the others are exact.
#include <olm/kernels/cuda/reduce/pass.cuh>

namespace olm::kernels::cuda_reduce {

void reduce_integers(const Shape& s, const Result& to) {
  switch (to.op) {
    case ReduceOp::sum:
      return fold<Total<uint64_t>>(s, nullptr, to);
    case ReduceOp::max:
    case ReduceOp::argmax:
      return fold<Extreme<int64_t, true>>(s, nullptr, to);
    case ReduceOp::min:
    case ReduceOp::argmin:
      return fold<Extreme<int64_t, false>>(s, nullptr, to);
    default:
      fail("reduce: ", s.dtype, " has no mean or logsumexp");
  }
}

}  // namespace olm::kernels::cuda_reduce
