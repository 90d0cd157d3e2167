#include <olm/autograd/ops/dropout.h>

#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/random.h>

namespace olm {
namespace {

Tensor mask(const Tensor& x, double p, uint64_t seed, uint64_t offset) {
  const Tensor from = raw::contiguous(x), y = empty_like(from);
  run(x.device().kind, kernels::Dropout{.dtype = x.dtype(),
                                        .y = y.mutable_data(),
                                        .x = from.data(),
                                        .n = x.numel(),
                                        .p = p,
                                        .seed = seed,
                                        .offset = offset,
                                        .stream = stream_of(x)});
  return y;
}

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& rng) {
  require_float("dropout", x);
  require(p >= 0 && p <= 1, "dropout: wanted a probability in [0, 1], got ", p);
  if (p == 0) return x;
  const uint64_t seed = rng.seed(), offset = rng.reserve(uint64_t(x.numel()));
  return record("dropout", mask(x, p, seed, offset), {x},
                [=](const Tensor& dy, Sinks) { return Grads{mask(dy, p, seed, offset)}; });
}

}  // namespace olm
