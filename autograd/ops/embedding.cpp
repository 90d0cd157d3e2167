#include <olm/autograd/ops/embedding.h>
#include <olm/engine/raw.h>
#include <olm/kernels/index.h>

namespace olm {
namespace {

/// The sum of the rows of dy by id, in acc_dtype(dy), or added into the pending gradient.
Tensor table_gradient(const Tensor& dy, const Tensor& ids, int64_t vocab, const Sink& sink) {
  const int64_t cols = dy.size(-1);
  const Tensor g = raw::contiguous(dy);
  const bool fits = sink.pending.defined() && sink.pending.dtype() == acc_dtype(g.dtype());
  const Tensor dw = fits ? sink.pending : empty({vocab, cols}, acc_options(g));
  kernels::run(g.device().kind, kernels::IndexAdd{.dtype = g.dtype(),
                                                  .index_dtype = ids.dtype(),
                                                  .y = dw.mutable_data(),
                                                  .src = g.data(),
                                                  .index = ids.data(),
                                                  .outer = 1,
                                                  .size = vocab,
                                                  .count = ids.numel(),
                                                  .inner = cols,
                                                  .accumulate = fits,
                                                  .stream = stream_of(g)});
  return dw;
}

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& weight, EmbeddingOptions options) {
  require_index_dtype("embedding", ids);
  require_float("embedding", weight);
  require_same_device("embedding", ids, weight);
  require(weight.rank() == 2, "embedding: wanted a table [V,D], got ", weight.shape());
  const DType dtype = options.dtype.value_or(weight.dtype());
  require(is_float(dtype), "embedding: wanted a float dtype of the result, got ", dtype);
  const Tensor index = raw::contiguous(ids), table = raw::contiguous(weight);
  const int64_t vocab = weight.size(0), cols = weight.size(1);
  Shape shape = ids.shape();
  shape.push_back(cols);
  const Tensor y = empty(shape, {dtype, weight.device()});
  kernels::run(weight.device().kind, kernels::IndexSelect{.op = "embedding",
                                                          .dtype = dtype,
                                                          .x_dtype = weight.dtype(),
                                                          .index_dtype = ids.dtype(),
                                                          .y = y.mutable_data(),
                                                          .x = table.data(),
                                                          .index = index.data(),
                                                          .outer = 1,
                                                          .size = vocab,
                                                          .count = ids.numel(),
                                                          .inner = cols,
                                                          .stream = stream_of(weight)});
  return record("embedding", y, {weight},
                [ids = saved(index), vocab, dtype = weight.dtype()](const Tensor& dy, Sinks into) {
                  return Grads{raw::cast(table_gradient(dy, ids.get(), vocab, into[0]), dtype)};
                });
}

}  // namespace olm
