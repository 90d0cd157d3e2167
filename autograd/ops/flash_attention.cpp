#include <olm/autograd/ops/flash_attention.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/flash_attention.h>

namespace olm {
namespace {

using kernels::Attention;
using kernels::FlashAttentionBackward;
using kernels::FlashAttentionForward;
using kernels::HeadRows;
using kernels::HeadRowsOut;

constexpr const char* kOp = "flash_attention";

/// Tensors the kernels read beside q, k and v, in the form they read them.
struct Extras {
  Tensor slopes, sink, mask, query_documents, key_documents, key_lengths;
};

Tensor dense_rows(const Tensor& x) {
  return x.stride(-1) == 1 || x.size(-1) <= 1 ? x : raw::contiguous(x);
}
HeadRows rows(const Tensor& x) { return {x.data(), x.stride(0), x.stride(1), x.stride(2)}; }
HeadRowsOut rows_out(const Tensor& x) {
  if (!x.defined()) return {};
  return {x.mutable_data(), x.stride(0), x.stride(1), x.stride(2)};
}

void check_shapes(const Tensor& q, const Tensor& k, const Tensor& v) {
  require(q.rank() == 4 && k.rank() == 4 && v.rank() == 4,
          "flash_attention: wanted q, k, v of rank 4 [batch,rows,heads,dim], got ", q.shape(), ", ",
          k.shape(), ", ", v.shape());
  require_float(kOp, q);
  for (const Tensor* t : {&k, &v}) {
    require_same_dtype(kOp, q, *t);
    require_same_device(kOp, q, *t);
  }
  require(k.size(0) == q.size(0) && k.size(3) == q.size(3), "flash_attention: k ", k.shape(),
          " does not fit q ", q.shape(), ": batch and head size must be equal");
  require(v.size(0) == k.size(0) && v.size(1) == k.size(1) && v.size(2) == k.size(2),
          "flash_attention: v ", v.shape(), " does not fit k ", k.shape(),
          ": batch, rows and heads must be equal");
  const int64_t heads = q.size(2), kv_heads = k.size(2);
  require(kv_heads > 0 ? heads % kv_heads == 0 : heads == 0, "flash_attention: ", heads,
          " query heads do not divide among ", kv_heads, " key and value heads");
}

Tensor ids(const char* what, const Tensor& t, const Shape& wanted, const Tensor& q) {
  if (!t.defined()) return t;
  require(t.shape() == wanted, "flash_attention: wanted ", what, " of shape ", wanted, ", got ",
          t.shape());
  require_same_device(kOp, q, t);
  require_index_dtype(kOp, t);
  const Tensor narrow = raw::contiguous(raw::cast(t, i32));
  if (t.dtype() == i32 || t.device() != cpu) return narrow;
  const std::vector<int64_t> values = to_host<int64_t>(t);
  const int32_t* kept = narrow.data<int32_t>();
  for (size_t i = 0; i < values.size(); ++i)
    require(values[i] == kept[i], "flash_attention: ", what, " hold ", values[i],
            ", which is not an i32");
  return narrow;
}

/// The mask with rank 4; its sizes are 1 or those of the scores.
Tensor full_rank_mask(const Tensor& mask, const Tensor& q, const Tensor& k) {
  if (!mask.defined()) return mask;
  const Shape scores{q.size(0), q.size(2), q.size(1), k.size(1)};
  require(mask.dtype() == boolean || is_float(mask.dtype()),
          "flash_attention: wanted a boolean or float mask, got ", mask.dtype());
  require_same_device(kOp, q, mask);
  bool fits = mask.rank() <= 4;
  for (int d = 1; fits && d <= mask.rank(); ++d)
    fits = mask.size(-d) == 1 || mask.size(-d) == scores[4 - d];
  require(fits, "flash_attention: mask ", mask.shape(), " does not broadcast to the scores ",
          scores);
  Shape shape = mask.shape(), strides = mask.strides();
  while (shape.rank() < 4) shape.insert(0, 1), strides.insert(0, 0);
  for (int d = 0; d < 4; ++d)
    if (shape[d] == 1) strides[d] = 0;
  return raw::as_strided(mask, shape, strides, mask.storage_offset());
}

Extras extras_of(const Tensor& q, const Tensor& k, const FlashAttentionOptions& o) {
  require(!o.slopes.defined() || !grad_enabled() || !requires_grad(o.slopes),
          "flash_attention: slopes get no gradient, but require one");
  const Shape of_queries{q.size(0), q.size(1)}, of_keys{k.size(0), k.size(1)};
  require(o.documents.defined() || !o.key_documents.defined(),
          "flash_attention: key_documents came without documents");
  const Tensor& key_documents = o.key_documents.defined() ? o.key_documents : o.documents;
  const Shape per_head{q.size(2)};
  return {.slopes = checked_if_defined(kOp, "slopes", o.slopes, per_head, q),
          .sink = checked_if_defined(kOp, "sink", o.sink, per_head, q),
          .mask = full_rank_mask(o.mask, q, k),
          .query_documents = ids("documents", o.documents, of_queries, q),
          .key_documents = ids("key documents", key_documents, of_keys, q),
          .key_lengths = ids("key_lengths", o.key_lengths, {q.size(0)}, q)};
}

/// The part that forward and backward share, without the pointers of `extras`.
Attention attention_of(const Tensor& q, const Tensor& k, const Tensor& v,
                       const FlashAttentionOptions& o) {
  Attention a{.dtype = q.dtype(),
              .batch = q.size(0),
              .heads = q.size(2),
              .kv_heads = k.size(2),
              .queries = q.size(1),
              .keys = k.size(1),
              .dim = q.size(3),
              .value_dim = v.size(3),
              .scale = o.scale,
              .causal = o.causal,
              .offset = o.offset,
              .window = o.window,
              .softcap = o.softcap,
              .dropout = o.dropout};
  if (a.scale == 0) a.scale = 1 / std::sqrt(double(std::max<int64_t>(a.dim, 1)));
  require(o.window >= 0 && o.softcap >= 0, "flash_attention: window ", o.window, " and softcap ",
          o.softcap, " must not be negative");
  require(o.dropout >= 0 && o.dropout <= 1, "flash_attention: wanted dropout in [0,1], got ",
          o.dropout);
  constexpr int64_t kFar = int64_t(1) << 60;
  require(o.offset > -kFar && o.offset < kFar, "flash_attention: offset ", o.offset,
          " is out of range");
  // No two rows are further apart than this.
  a.window = std::min(o.window, a.keys + a.queries + std::abs(o.offset));
  if (a.dropout == 0) return a;
  require(o.rng != nullptr, "flash_attention: dropout ", o.dropout, " needs a generator");
  a.seed = o.rng->seed();
  a.dropout_offset =
      o.rng->reserve(uint64_t(a.batch * a.heads * a.queries * ((a.keys + 3) / 4 * 4)));
  return a;
}

Attention with_extras(Attention a, const Extras& e) {
  a.slopes = data_or_null(e.slopes);
  a.sink = data_or_null(e.sink);
  a.query_documents = data_or_null<int32_t>(e.query_documents);
  a.key_documents = data_or_null<int32_t>(e.key_documents);
  a.key_lengths = data_or_null<int32_t>(e.key_lengths);
  if (!e.mask.defined()) return a;
  a.mask = e.mask.data();
  a.mask_dtype = e.mask.dtype();
  for (int d = 0; d < 4; ++d) a.mask_strides[d] = e.mask.stride(d);
  return a;
}

/// Extras kept for backward: those with versions to check, checked as they are read.
struct SavedExtras {
  explicit SavedExtras(const Extras& e)
      : slopes(e.slopes),
        sink(e.sink),
        mask(e.mask),
        query_documents(e.query_documents),
        key_documents(e.key_documents),
        key_lengths(e.key_lengths) {}
  Extras get() const {
    return {.slopes = slopes.get(),
            .sink = sink.get(),
            .mask = mask.get(),
            .query_documents = query_documents.get(),
            .key_documents = key_documents.get(),
            .key_lengths = key_lengths.get()};
  }
  Saved slopes, sink, mask, query_documents, key_documents, key_lengths;
};

bool differentiates(const Tensors& inputs) {
  return grad_enabled() && std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) {
           return t.defined() && requires_grad(t);
         });
}

/// The gradient of the mask in acc_dtype, 0 where no tile was attended; undefined if not wanted.
Tensor mask_gradient(const Tensor& mask, const Tensor& q, const Sink& into) {
  return into.needed ? zeros(mask.shape(), acc_options(q)) : Tensor();
}

void put_mask_gradient(const Tensor& dmask, FlashAttentionBackward& call) {
  if (!dmask.defined()) return;
  call.dmask = dmask.mutable_data();
  for (int d = 0; d < 4; ++d) call.dmask_strides[d] = dmask.size(d) == 1 ? 0 : dmask.stride(d);
}

}  // namespace

Tensor flash_attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                       const FlashAttentionOptions& options) {
  check_shapes(q_in, k_in, v_in);
  const Extras extras = extras_of(q_in, k_in, options);
  const Tensor q = dense_rows(q_in), k = dense_rows(k_in), v = dense_rows(v_in);
  const Attention attention = attention_of(q, k, v, options);
  const Tensor y = empty({q.size(0), q.size(1), q.size(2), v.size(3)}, options_of(q));
  const Shape per_row{q.size(0), q.size(2), q.size(1)};
  const Tensor row_max = empty(per_row, acc_options(q));
  const Tensor row_log_sum = empty(per_row, acc_options(q));
  const bool recorded = differentiates({q_in, k_in, v_in, options.mask, options.sink});
  const Tensor y_low = recorded && size_of(q.dtype()) == 2 ? empty_like(y) : Tensor();
  run(q.device().kind, FlashAttentionForward{.attention = with_extras(attention, extras),
                                             .q = rows(q),
                                             .k = rows(k),
                                             .v = rows(v),
                                             .y = rows_out(y),
                                             .y_low = memory_or_null(y_low),
                                             .row_max = row_max.mutable_data(),
                                             .row_log_sum = row_log_sum.mutable_data(),
                                             .stream = stream_of(q)});
  return record(kOp, y, {q_in, k_in, v_in, options.mask, options.sink},
                [=, q = saved(q), k = saved(k), v = saved(v), y = saved(y),
                 kept = SavedExtras(extras)](const Tensor& dy_in, Sinks into) -> Grads {
                  const Tensor dy = dense_rows(dy_in);
                  const Extras e = kept.get();
                  const Tensor dq = empty_if_needed(into[0]), dk = empty_if_needed(into[1]);
                  const Tensor dv = empty_if_needed(into[2]);
                  const Tensor dmask = mask_gradient(e.mask, q.get(), into[3]);
                  const ParamGrad dsink(into[4], acc_dtype(dy.dtype()));
                  FlashAttentionBackward call{.attention = with_extras(attention, e),
                                              .q = rows(q.get()),
                                              .k = rows(k.get()),
                                              .v = rows(v.get()),
                                              .y = rows(y.get()),
                                              .dy = rows(dy),
                                              .y_low = data_or_null(y_low),
                                              .row_max = row_max.data(),
                                              .row_log_sum = row_log_sum.data(),
                                              .dq = rows_out(dq),
                                              .dk = rows_out(dk),
                                              .dv = rows_out(dv),
                                              .dsink = dsink.data(),
                                              .accumulate_dsink = dsink.accumulates(),
                                              .stream = stream_of(dy)};
                  put_mask_gradient(dmask, call);
                  run(dy.device().kind, call);
                  const Tensor dm = dmask.defined()
                                        ? raw::cast(raw::view(dmask, into[3].shape), into[3].dtype)
                                        : Tensor();
                  return {dq, dk, dv, dm, dsink.result()};
                });
}

}  // namespace olm
