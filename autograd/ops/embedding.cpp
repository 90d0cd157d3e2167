#include <olm/autograd/ops/embedding.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/index.h>

namespace olm {
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
  run(weight.device().kind, kernels::IndexSelect{.op = "embedding",
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
                [=, ids = saved(index)](const Tensor& dy, Sinks into) -> Grads {
                  if (!into[0].needed) return {Tensor()};
                  const Tensor g = raw::contiguous(dy);
                  const ParamGrad dw(into[0], acc_dtype(g.dtype()));
                  run(g.device().kind, kernels::IndexAdd{.dtype = g.dtype(),
                                                         .index_dtype = ids.get().dtype(),
                                                         .y = dw.data(),
                                                         .src = g.data(),
                                                         .index = ids.get().data(),
                                                         .outer = 1,
                                                         .size = vocab,
                                                         .count = ids.get().numel(),
                                                         .inner = cols,
                                                         .accumulate = dw.accumulates(),
                                                         .stream = stream_of(g)});
                  return {dw.result()};
                });
}

}  // namespace olm
