// Reductions of floats, and variance, as passes over x: logsumexp and variance take two.
#include <olm/kernels/cuda/reduce/pass.cuh>

namespace olm::kernels {
namespace cuda_reduce {
namespace {

void reduce_floats(const Shape& s, Result to) {
  switch (to.op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return fold<Total<float>>(s, nullptr, to);
    case ReduceOp::max:
    case ReduceOp::argmax:
      return fold<Extreme<float, true>>(s, nullptr, to);
    case ReduceOp::min:
    case ReduceOp::argmin:
      return fold<Extreme<float, false>>(s, nullptr, to);
    case ReduceOp::logsumexp: {
      const Scratch<float> most = s.stream.scratch<float>(size_t(s.outer * s.inner));
      fold<Extreme<float, true>>(s, nullptr, {.op = ReduceOp::max, .y = most.get()});
      to.ref = most;
      return fold<Powers, Total<float>>(s, most, to);
    }
  }
}

}  // namespace
}  // namespace cuda_reduce

void run(Cuda, const Reduce& k) {
  using namespace cuda_reduce;
  const bool extreme = k.op == ReduceOp::max || k.op == ReduceOp::min || k.op == ReduceOp::argmax ||
                       k.op == ReduceOp::argmin;
  require(!extreme || k.reduced > 0 || k.outer * k.inner == 0,
          "reduce: an empty axis has no largest or smallest element");
  const bool integers = k.dtype == i32 || k.dtype == i64;
  if (!integers) require_packet_dtype("reduce", k.dtype);
  if (k.outer * k.inner == 0) return;
  const Shape s{k.x, k.dtype, k.outer, k.reduced, k.inner, k.stream};
  const Result to{.op = k.op, .dtype = k.dtype, .y = k.y, .divisor = float(k.reduced)};
  integers ? reduce_integers(s, to) : reduce_floats(s, to);
}

void run(Cuda, const Variance& k) {
  using namespace cuda_reduce;
  require_packet_dtype("variance", k.dtype);
  if (k.outer * k.inner == 0) return;
  const Shape s{k.x, k.dtype, k.outer, k.reduced, k.inner, k.stream};
  fold<Total<float>>(s, nullptr, {.op = ReduceOp::mean, .y = k.mean, .divisor = float(k.reduced)});
  const float divisor = float(std::max(0.0, double(k.reduced) - k.correction));
  fold<Squares>(s, in<float>(k.mean), {.dtype = k.dtype, .y = k.y, .divisor = divisor});
}

}  // namespace olm::kernels
