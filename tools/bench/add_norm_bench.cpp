#include <olm/autograd/ops/add_norm.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// The step between two residual blocks, in its two forms. The residual gets no gradient: it would
/// be that of x, copied because both are leaves here, which they are not in a model.
void add_add_norm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], cols = shape[1];
  const double n = double(rows * cols), bytes = n * double(size_of(dtype));
  for (const bool centered : {false, true}) {
    const double flop = centered ? 9 * n : 5 * n;
    add_op(cases, {.name = centered ? "add_layer_norm" : "add_rms_norm",
                   .shape = text_of(shape),
                   .dtype = dtype,
                   .forward = {.flop = flop, .bytes = 4 * bytes},
                   .both = {.flop = 3 * flop, .bytes = 8 * bytes, .traffic = Traffic::axpy},
                   .make =
                       [=](Generator& rng) {
                         const auto x = [&] { return randn({rows, cols}, rng, {.dtype = dtype}); };
                         const Tensor first = x(), residual = x();
                         Tensors leaves{first, randn({cols}, rng)};
                         if (centered) leaves.push_back(randn({cols}, rng));
                         leaves.push_back(residual);
                         return leaves;
                       },
                   .call =
                       [=](const Tensors& x) {
                         const SumAndNorm r = centered ? add_layer_norm(x[0], x[3], x[1], x[2])
                                                       : add_rms_norm(x[0], x[2], x[1]);
                         return Tensors{r.sum, r.y};
                       },
                   .fixed = 1});
  }
}

}  // namespace olm::tools
