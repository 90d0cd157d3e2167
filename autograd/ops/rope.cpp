#include <olm/autograd/ops/rope.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>

namespace olm {
namespace {

/// Tables and positions as the kernel wants them.
struct Angles {
  Tensor cos = {}, sin = {}, positions = {};
  int64_t offset = 0;
  RopePairing pairing = RopePairing::interleaved;
};

/// Angles kept for backward.
struct SavedAngles {
  explicit SavedAngles(const Angles& a)
      : cos(a.cos), sin(a.sin), positions(a.positions), offset(a.offset), pairing(a.pairing) {}
  Angles get() const { return {cos.get(), sin.get(), positions.get(), offset, pairing}; }
  Saved cos, sin, positions;
  int64_t offset;
  RopePairing pairing;
};

Tensor table(const char* name, const Tensor& t, const Tensor& x) {
  require(t.rank() == 2, "rope: wanted ", name, " [max_position, r/2], got ", t.shape());
  require(2 * t.size(1) <= x.size(3), "rope: ", name, " ", t.shape(), " rotates ", 2 * t.size(1),
          " dimensions, but x ", x.shape(), " has heads of ", x.size(3));
  require(t.dtype() == f32 || t.dtype() == acc_dtype(x.dtype()), "rope: wanted ", name,
          " in f32, got ", t.dtype());
  require(!grad_enabled() || !requires_grad(t), "rope: ", name,
          " gets no gradient, but requires one");
  require_same_device("rope", x, t);
  return raw::contiguous(raw::cast(t, acc_dtype(x.dtype())));
}

Angles angles(const Tensor& x, const RopeTables& tables, const RopeOptions& options) {
  require_float("rope", x);
  require(x.rank() == 4, "rope: wanted x [B,T,H,Dh], got ", x.shape());
  require(tables.cos.shape() == tables.sin.shape(), "rope: cos ", tables.cos.shape(), " and sin ",
          tables.sin.shape(), " differ in shape");
  Angles a{.cos = table("cos", tables.cos, x), .sin = table("sin", tables.sin, x)};
  a.offset = options.offset;
  a.pairing = options.pairing;
  const Tensor& p = options.positions;
  if (!p.defined()) return a;
  require(p.shape() == Shape{x.size(0), x.size(1)}, "rope: positions ", p.shape(), " do not fit x ",
          x.shape());
  require_index_dtype("rope", p);
  require_same_device("rope", x, p);
  a.positions = raw::contiguous(raw::cast(p, i64));
  return a;
}

Tensor rotate(const Tensor& x, const Angles& a, bool inverse) {
  const Tensor dense = x.stride(3) == 1 || x.size(3) <= 1 ? x : raw::contiguous(x);
  const Tensor y = empty(x.shape(), options_of(x));
  run(x.device().kind, kernels::Rope{.dtype = x.dtype(),
                                     .y = y.mutable_data(),
                                     .x = dense.data(),
                                     .stride_batch = dense.stride(0),
                                     .stride_time = dense.stride(1),
                                     .stride_head = dense.stride(2),
                                     .cos = a.cos.data(),
                                     .sin = a.sin.data(),
                                     .positions = data_or_null<int64_t>(a.positions),
                                     .offset = a.offset,
                                     .batch = x.size(0),
                                     .time = x.size(1),
                                     .heads = x.size(2),
                                     .head_dim = x.size(3),
                                     .rotated = 2 * a.cos.size(1),
                                     .max_position = a.cos.size(0),
                                     .inverse = inverse,
                                     .pairing = a.pairing,
                                     .stream = stream_of(x)});
  return y;
}

Tensor recorded(const Tensor& x, const Angles& a) {
  return record("rope", rotate(x, a, false), {x},
                [kept = SavedAngles(a)](const Tensor& dy, Sinks) -> Grads {
                  return {rotate(dy, kept.get(), true)};
                });
}

}  // namespace

Tensor rope(const Tensor& x, const RopeTables& tables, const RopeOptions& options) {
  return recorded(x, angles(x, tables, options));
}

std::pair<Tensor, Tensor> rope(const Tensor& q, const Tensor& k, const RopeTables& tables,
                               const RopeOptions& options) {
  return {rope(q, tables, options), rope(k, tables, options)};
}

}  // namespace olm
