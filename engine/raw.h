#pragma once
// Tensor to tensor without derivatives: what ops and optimizers are made of. The prefix is the
// warning: results are not recorded.
#include <optional>

#include <olm/engine/tensor.h>

namespace olm::raw {

/// x itself if already contiguous, else a contiguous copy.
OLM_API Tensor contiguous(const Tensor& x);
/// A copy with its own memory, contiguous.
OLM_API Tensor clone(const Tensor& x);
/// A second handle on the same storage, without graph.
OLM_API Tensor alias(const Tensor& x);
/// The same elements under another shape; one size may be -1. Throws where strides do not allow it.
OLM_API Tensor view(const Tensor& x, const Shape& shape);
/// As view, with a copy where strides do not allow it.
OLM_API Tensor reshape(const Tensor& x, const Shape& shape);
/// Any window onto x's storage. Checked to stay inside it.
OLM_API Tensor as_strided(const Tensor& x, const Shape& shape, const Shape& strides,
                          int64_t offset);
OLM_API Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1);
OLM_API Tensor permute(const Tensor& x, const Shape& order);
/// Elements [start, end) of one dimension, every step-th.
OLM_API Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step = 1);
/// One index of a dimension, which disappears.
OLM_API Tensor select(const Tensor& x, int64_t dim, int64_t index);
/// Dimensions of size 1 (or missing in front) repeated without copying.
OLM_API Tensor expand(const Tensor& x, const Shape& shape);

/// x in another dtype; x itself if it has it already.
OLM_API Tensor cast(const Tensor& x, DType dtype);
/// x on another device; x itself if it is there already.
OLM_API Tensor to(const Tensor& x, Device device);
// What is written in place may share storage with what is read: reading comes first. Throws where
// elements to be written share memory, as those of an expanded tensor do.

/// Copies src, broadcast and converted, into dst.
OLM_API void copy_(const Tensor& dst, const Tensor& src);
OLM_API void fill_(const Tensor& x, double value);
/// dst += scale · src; same shape.
OLM_API void add_(const Tensor& dst, const Tensor& src, double scale = 1);
/// x *= scale.
OLM_API void scale_(const Tensor& x, double scale);
/// Sums x over the dimensions in which `shape` broadcasts to x's shape.
OLM_API Tensor sum_to(const Tensor& x, const Shape& shape);
/// True where some element is NaN or infinite.
OLM_API bool has_nonfinite(const Tensor& x);

}  // namespace olm::raw
