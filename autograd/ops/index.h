#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Reading and adding by index, as in PyTorch. Indices are i32 or i64 and never negative; one that
// is outside the dimension throws, naming the index, its position and the size.

/// Elements by index along one dimension: y[.., j, ..] = x[.., index[.., j, ..], ..].
///   index: of x's rank, and no larger than x but in `dim`    y: index's shape, x's dtype
OLM_API Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);

/// Slices by index: y[.., j, ..] = x[.., index[j], ..].
///   index: [K]    y: x's shape with K in place of dimension `dim`
OLM_API Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);

/// A copy of x with y[.., index[.., j, ..], ..] += src[.., j, ..], summed in the order of j and in
/// acc_dtype.
///   index: of x's rank, no larger than src, and no larger than x but in `dim`    src: x's dtype
OLM_API Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);

/// y[..., c] = 1 where ids[...] is c, else 0.
///   ids: [...]    y: [..., classes] of `dtype`
OLM_API Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype = i64);

}  // namespace olm
