#include <olm/autograd/ops/gated.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// Rows of values and gates, 2 · hidden wide.
void add_swiglu(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], hidden = shape[1];
  const double bytes = double(rows * hidden) * double(size_of(dtype));
  add_op(cases, {.name = "swiglu",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.bytes = 3 * bytes, .traffic = Traffic::axpy},
                 .both = {.bytes = 8 * bytes, .traffic = Traffic::axpy},
                 .make =
                     [=](Generator& rng) {
                       return Tensors{randn({rows, 2 * hidden}, rng, {.dtype = dtype})};
                     },
                 .call = [](const Tensors& x) { return Tensors{swiglu(x[0])}; }});
}

}  // namespace olm::tools
