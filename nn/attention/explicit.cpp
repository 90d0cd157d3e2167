#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/softmax.h>
#include <olm/autograd/ops/view.h>
#include <olm/autograd/ops/where.h>
#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

/// Softmax over the scores of a row and its head's sink, without the sink's own weight.
Tensor softmax_with_sink(const Tensor& s, const Tensor& sink) {
  const Tensor column = expand(view(cast(sink, s.dtype()), {1, s.size(1), 1, 1}),
                               {s.size(0), s.size(1), s.size(2), 1});
  return slice(softmax(cat({s, column}, -1)), -1, 0, s.size(3));
}

/// [B,S,Hkv,D] as [B,H,S,D]: each head as often as query heads share it.
Tensor by_query_head(const Tensor& x, int64_t heads) {
  const int64_t batch = x.size(0), rows = x.size(1), own = x.size(2), dim = x.size(3);
  const Tensor y = transpose(x, 1, 2);
  if (own == heads) return y;
  const Tensor repeated = expand(unsqueeze(y, 2), {batch, own, heads / own, rows, dim});
  return reshape(repeated, {batch, heads, rows, dim});
}

}  // namespace

Tensor AttentionBase::compute_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const Tensor& mask, Context& ctx) {
  const DType acc = acc_dtype(q.dtype());  // scores of bf16 have the precision of f32
  Tensor s = matmul(cast(q, acc), transpose(cast(k, acc), -2, -1)) * scale();
  if (const auto& cap = options.attn_logit_softcap) s = tanh(s / *cap) * *cap;
  if (mask.defined()) s = s + mask;
  Tensor p = attention_sink ? softmax_with_sink(s, *attention_sink) : softmax(s);
  p = dropout_if_training(p, *options.dropout, ctx);
  return matmul(cast(p, v.dtype()), v);
}

Tensor AttentionBase::attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) {
  const int64_t heads = q.size(2);
  const Tensor o = compute_attention(transpose(q, 1, 2), by_query_head(k, heads),
                                     by_query_head(v, heads), score_mask(q, k, ctx), ctx);
  const Shape wanted{q.size(0), heads, q.size(1), v.size(3)};
  require(o.shape() == wanted, type_name(), ": wanted ", wanted, " of compute_attention, got ",
          o.shape());
  return contiguous(transpose(o, 1, 2));
}

Tensor AttentionBase::score_mask(const Tensor& q, const Tensor& k, const Context& ctx) const {
  const int64_t batch = q.size(0), queries = q.size(1), keys = k.size(1);
  const TensorOptions scores{acc_dtype(q.dtype()), q.device()}, places{i64, q.device()};
  const Tensor at = view(arange(keys, places), {1, keys});
  const Tensor from = slice(view(arange(keys, places), {keys, 1}), 0, keys - queries);
  const Tensor mask = mask_of_keys(keys, ctx), slope = slopes(q), ids = ctx.documents;
  Tensor keep, bias;  // which keys a query attends, and what their scores get; undefined: all, 0
  const auto only = [&](const Tensor& t) { keep = keep.defined() ? logical_and(keep, t) : t; };
  if (*options.causal) only(le(at, from));
  if (options.window_size) only(lt(abs(at - from), double(*options.window_size)));
  require(!ids.defined() || ids.shape() == Shape{batch, keys}, type_name(), ": wanted documents ",
          Shape{batch, keys}, ", got ", ids.defined() ? ids.shape() : Shape{});
  if (ids.defined()) only(eq(view(ids, {batch, 1, keys, 1}), view(ids, {batch, 1, 1, keys})));
  if (slope.defined())
    bias = cast(abs(at - from), scores.dtype) * view(-slope, {options.num_heads, 1, 1});
  if (mask.defined() && mask.dtype() == boolean) {
    only(mask);
  } else if (mask.defined()) {
    require(is_float(mask.dtype()), type_name(), ": wanted a boolean or float mask, got ",
            mask.dtype());
    const Tensor added = cast(mask, scores.dtype);
    bias = bias.defined() ? bias + added : added;
  }
  if (!keep.defined()) return bias;
  return where(keep, bias.defined() ? bias : zeros({}, scores),
               -std::numeric_limits<double>::infinity());
}

}  // namespace olm::nn
