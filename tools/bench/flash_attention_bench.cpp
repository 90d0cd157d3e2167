#include <olm/autograd/ops/flash_attention.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// Causal attention; only the half of the products that causality leaves is counted.
void add_flash_attention(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t b = shape[0], h = shape[1], t = shape[2], d = shape[3];
  const double rows = double(b * h * t), n = rows * double(d) * double(size_of(dtype));
  const double product = rows * double(t) * double(d);  // one of them, causal
  const auto cost = [&](double products, double tensors) {
    return Cost{.flop = products * product,
                .bytes = tensors * n,
                .traffic = Traffic::axpy,
                .products = true};
  };
  add_op(cases, {.name = "flash_attention",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = cost(2, 4),
                 .both = cost(7, 12),
                 .make =
                     [=](Generator& rng) {
                       const auto heads = [&] {
                         return randn({b, t, h, d}, rng, {.dtype = dtype});
                       };
                       return Tensors{heads(), heads(), heads()};
                     },
                 .call =
                     [](const Tensors& x) {
                       return Tensors{flash_attention(x[0], x[1], x[2], {.causal = true})};
                     }});
}

}  // namespace olm::tools
