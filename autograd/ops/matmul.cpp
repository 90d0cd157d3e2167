#include <olm/autograd/ops/matmul.h>

#include <algorithm>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/gemm.h>

namespace olm {
namespace {

/// How GEMM reads the last two dimensions of a tensor.
struct Operand {
  Tensor t;
  bool transposed = false;
  int64_t ld = 0;
};

/// t in place if one of its last two dimensions is dense and the other at least as far apart as
/// that is long, else a copy.
Operand operand(const Tensor& t) {
  const auto fits = [&](int dense, int far) {
    const int64_t length = t.size(dense), count = t.size(far);
    return (t.stride(dense) == 1 || length <= 1) && (t.stride(far) >= length || count <= 1);
  };
  const auto ld = [&](int dense, int far) {
    return std::max<int64_t>({t.size(far) <= 1 ? 1 : t.stride(far), t.size(dense), 1});
  };
  if (fits(-1, -2)) return {t, false, ld(-1, -2)};
  if (fits(-2, -1)) return {t, true, ld(-2, -1)};
  const Tensor copy = raw::contiguous(t);
  return {copy, false, std::max<int64_t>(copy.size(-1), 1)};
}

Shape batch_shape(const Tensor& t) { return Shape(t.shape().span().first(size_t(t.rank() - 2))); }

/// Where the members of a batch begin, in elements: at multiples of one stride, or as listed.
struct Members {
  bool strided = true;
  int64_t stride = 0;
  std::vector<int64_t> offsets;
};

Members members(const Tensor& t, const Shape& batch) {
  Members m;
  const int64_t count = batch.numel();
  const int added = batch.rank() - (t.rank() - 2);
  m.offsets.resize(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i, offset = 0;
    for (int d = batch.rank() - 1; d >= 0; --d) {
      const int64_t index = rest % batch[d];
      rest /= batch[d];
      if (d >= added && t.size(d - added) > 1) offset += index * t.stride(d - added);
    }
    m.offsets[size_t(i)] = offset;
  }
  m.stride = count > 1 ? m.offsets[1] : 0;
  for (int64_t i = 0; i < count; ++i) m.strided = m.strided && m.offsets[size_t(i)] == i * m.stride;
  return m;
}

std::vector<const void*> pointers(const Tensor& t, const Members& m) {
  std::vector<const void*> list;
  const char* base = static_cast<const char*>(t.data());
  for (const int64_t offset : m.offsets)
    list.push_back(base + offset * int64_t(size_of(t.dtype())));
  return list;
}

/// True where one GEMM does for all rows of a and its leading dimensions: b is one matrix.
bool foldable(const Tensor& a, const Tensor& b) {
  return b.rank() == 2 && a.rank() > 2 && a.is_contiguous();
}

/// a · b for rank >= 2 as a contiguous tensor, in `into` (added to it where `accumulate`) if that
/// is defined.
Tensor gemm(const Tensor& a, const Tensor& b, const Tensor& into = {}, bool accumulate = false) {
  const int64_t m = a.size(-2), n = b.size(-1), k = a.size(-1);
  const Shape batch = broadcast_shapes("matmul", batch_shape(a), batch_shape(b));
  Shape shape = batch;
  shape.push_back(m);
  shape.push_back(n);
  const Tensor y = into.defined() ? into : empty(shape, options_of(a));
  if (a.device() == meta || y.numel() == 0) return y;
  if (foldable(a, b)) {
    gemm(raw::view(a, {leading_size(a), k}), b, raw::view(y, {y.numel() / n, n}), accumulate);
    return y;
  }
  const Operand left = operand(a), right = operand(b);
  const Members lefts = members(left.t, batch), rights = members(right.t, batch);
  const bool strided = lefts.strided && rights.strided;
  const auto left_list = strided ? std::vector<const void*>() : pointers(left.t, lefts);
  const auto right_list = strided ? std::vector<const void*>() : pointers(right.t, rights);
  run(a.device().kind, kernels::Gemm{.a_dtype = a.dtype(),
                                     .b_dtype = b.dtype(),
                                     .c_dtype = y.dtype(),
                                     .a = left.t.data(),
                                     .b = right.t.data(),
                                     .c = y.mutable_data(),
                                     .transpose_a = left.transposed,
                                     .transpose_b = right.transposed,
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .lda = left.ld,
                                     .ldb = right.ld,
                                     .batch = batch.numel(),
                                     .a_stride = lefts.stride,
                                     .b_stride = rights.stride,
                                     .c_stride = m * n,
                                     .a_list = strided ? nullptr : left_list.data(),
                                     .b_list = strided ? nullptr : right_list.data(),
                                     .accumulate = accumulate,
                                     .stream = stream_of(a)});
  return y;
}

/// a · b summed to `shape`, of which the sums are not rounded to a narrow dtype before.
Tensor gemm_summed_to(const Tensor& a, const Tensor& b, const Shape& shape) {
  Shape full = broadcast_shapes("matmul", batch_shape(a), batch_shape(b));
  full.push_back(a.size(-2));
  full.push_back(b.size(-1));
  if (full == shape) return gemm(a, b);
  const Tensor y = gemm(a, b, empty(full, {acc_dtype(a.dtype()), a.device()}));
  return raw::cast(raw::sum_to(y, shape), a.dtype());
}

/// Gradient of b: aᵀ · dy summed over what b was broadcast to.
Tensor right_gradient(const Tensor& a, const Tensor& b, const Tensor& dy, const Sink& into) {
  if (!foldable(a, b)) return gemm_summed_to(raw::transpose(a, -1, -2), dy, b.shape());
  const Tensor rows = raw::view(a, {leading_size(a), a.size(-1)});
  const Tensor dys = raw::view(raw::contiguous(dy), {rows.size(0), dy.size(-1)});
  // A vector's gradient is made as a matrix of one column, so not in its own memory.
  if (b.shape() != into.shape) return gemm(raw::transpose(rows, 0, 1), dys);
  const ParamGrad db(into, into.dtype);
  return gemm(raw::transpose(rows, 0, 1), dys, db.tensor(), db.accumulates());
}

/// a as a matrix: a vector becomes a row (left operand) or a column (right operand).
Tensor as_matrix(const Tensor& t, bool left) {
  if (t.rank() != 1) return t;
  const Shape shape = left ? Shape{1, t.size(0)} : Shape{t.size(0), 1};
  const Shape strides = left ? Shape{t.size(0), t.stride(0)} : Shape{t.stride(0), 1};
  return raw::as_strided(t, shape, strides, t.storage_offset());
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  require(a.rank() >= 1 && b.rank() >= 1, "matmul: wanted vectors or matrices, got ", a.shape(),
          " and ", b.shape());
  require_float("matmul", a);
  require_same_dtype("matmul", a, b);
  require_same_device("matmul", a, b);
  const Tensor left = as_matrix(a, true), right = as_matrix(b, false);
  require(left.size(-1) == right.size(-2), "matmul: ", a.shape(), " and ", b.shape(),
          " do not fit: the last dimension of the first has ", left.size(-1),
          " elements, the rows of the second are ", right.size(-2));
  const Tensor matrix = gemm(left, right);
  Shape shape = matrix.shape();
  if (b.rank() == 1) shape.erase(shape.rank() - 1);
  if (a.rank() == 1) shape.erase(shape.rank() - (b.rank() == 1 ? 1 : 2));
  const Shape full = matrix.shape();
  return record("matmul", raw::view(matrix, shape), {a, b},
                [=, shape_a = a.shape(), shape_b = b.shape(), left = saved(left),
                 right = saved(right)](const Tensor& dy, Sinks into) -> Grads {
                  const Tensor g = raw::view(raw::contiguous(dy), full);
                  Tensor da, db;
                  if (into[0].needed) {
                    const Tensor& r = right.get();
                    da = gemm_summed_to(g, raw::transpose(r, -1, -2), left.get().shape());
                    da = raw::view(da, shape_a);
                  }
                  if (into[1].needed) {
                    db = right_gradient(left.get(), right.get(), g, into[1]);
                    if (db.shape() != shape_b) db = raw::view(db, shape_b);
                  }
                  return {da, db};
                });
}

}  // namespace olm
