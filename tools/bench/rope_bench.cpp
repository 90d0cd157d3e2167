#include <olm/autograd/ops/rope.h>

#include <cmath>

#include "tools/bench/bench.h"

namespace olm::tools {

void add_rope(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t b = shape[0], h = shape[1], t = shape[2], d = shape[3];
  const double n = double(b * h * t * d), bytes = n * double(size_of(dtype));
  std::vector<float> cos, sin;
  for (int64_t p = 0; p < t; ++p)
    for (int64_t j = 0; j < d / 2; ++j) {
      const double angle = double(p) * std::pow(10000.0, -2.0 * double(j) / double(d));
      cos.push_back(float(std::cos(angle)));
      sin.push_back(float(std::sin(angle)));
    }
  const RopeTables tables{from_host(cos, {t, d / 2}), from_host(sin, {t, d / 2})};
  add_op(cases, {.name = "rope",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.flop = 3 * n, .bytes = 2 * bytes},
                 .both = {.flop = 6 * n, .bytes = 4 * bytes},
                 .make =
                     [=](Generator& rng) {
                       return Tensors{randn({b, t, h, d}, rng, {.dtype = dtype})};
                     },
                 .call = [=](const Tensors& x) { return Tensors{rope(x[0], tables)}; }});
}

}  // namespace olm::tools
