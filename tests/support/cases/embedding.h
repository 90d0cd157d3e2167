#pragma once
#include <optional>

#include <olm/autograd/ops/embedding.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Ids [..] of a table [vocab, d], the shape being [.., vocab, d]. Rows in `rows_dtype`, or in the
/// table's own.
inline OpCase embedding_case(DType id_dtype = i64, std::optional<DType> rows_dtype = {}) {
  return {.name = "embedding",
          .shape = {2, 4, 5, -1},
          .inputs =
              [=](Generator& g, const Shape& shape) {
                const int64_t vocab = shape[shape.rank() - 2], d = shape[shape.rank() - 1];
                const Tensor ids = randint(0, vocab, leading(shape, 2), g);
                return Tensors{raw::cast(ids, id_dtype), uniform({vocab, d}, g)};
              },
          .op =
              [=](const Tensors& in) {
                const bool own = !rows_dtype || in[1].dtype() == f64;
                return embedding(in[0], in[1], {.dtype = own ? in[1].dtype() : *rows_dtype});
              },
          .parameters = rows_dtype ? std::vector<size_t>{1} : std::vector<size_t>{},
          .reduction = [](int64_t) { return 8.0; },
          .parallel = {2000, 300, 257},
          .cost =
              [](const Shape& shape, DType dtype) {
                const int64_t d = shape[shape.rank() - 1];
                const auto rows = double(leading(shape, 2).numel() * d);
                const double table = double(shape[shape.rank() - 2] * d);
                const double element = double(size_of(dtype)), forward = rows * (4 + element);
                return Costs{.forward = {.bytes = forward},
                             .both = {.bytes = forward + rows * (element + 8) + 4 * table}};
              }};
}

}  // namespace olm::test
