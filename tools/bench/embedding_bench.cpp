#include <olm/autograd/ops/embedding.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// Rows of an f32 table by id; backward makes the table's whole gradient.
void add_embedding(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], vocab = shape[1], d = shape[2];
  const double element = double(size_of(dtype));
  const double forward = double(rows * d) * (4 + element);
  const double backward = double(rows * d) * (element + 8) + 4.0 * double(vocab * d);
  Generator rng(2);
  const Tensor ids = randint(0, vocab, {rows}, rng);
  add_op(cases, {.name = "embedding",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.bytes = forward},
                 .both = {.bytes = forward + backward},
                 .make =
                     [=](Generator& random) {
                       return Tensors{uniform({vocab, d}, random)};
                     },
                 .call =
                     [=](const Tensors& x) {
                       const DType to = x[0].dtype() == f64 ? f64 : dtype;
                       return Tensors{embedding(ids, x[0], {.dtype = to})};
                     }});
}

}  // namespace olm::tools
