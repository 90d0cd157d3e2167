#include <cmath>

#include <olm/autograd/ops/flash_attention.h>
#include <olm/autograd/ops/linear.h>
#include <olm/autograd/ops/view.h>
#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

/// The shape with what was left open filled in; throws where sizes do not fit each other.
AttentionShape completed(AttentionShape s) {
  require(s.embed_dim > 0 && s.num_heads > 0 && s.num_kv_heads > 0, s.layer,
          ": wanted sizes above 0, got embed_dim ", s.embed_dim, ", num_heads ", s.num_heads,
          " and num_kv_heads ", s.num_kv_heads);
  require(s.head_dim > 0 || s.embed_dim % s.num_heads == 0, s.layer, ": embed_dim ", s.embed_dim,
          " does not divide into num_heads ", s.num_heads);
  require(s.num_heads % s.num_kv_heads == 0, s.layer, ": num_heads ", s.num_heads,
          " does not divide into num_kv_heads ", s.num_kv_heads);
  checked_probability(s.layer, s.dropout);
  if (s.head_dim <= 0) s.head_dim = s.embed_dim / s.num_heads;
  if (!s.scale) s.scale = 1 / std::sqrt(double(s.head_dim));
  return s;
}

Ref<LinearModule> projection(const AttentionShape& shape, int64_t heads) {
  const AttentionShape s = completed(shape);
  return Linear(s.embed_dim, heads * s.head_dim, {.bias = s.qkv_bias});
}

Ref<LinearModule> projection_back(const AttentionShape& shape) {
  const AttentionShape s = completed(shape);
  return Linear(s.num_heads * s.head_dim, s.embed_dim, {.bias = s.out_bias});
}

}  // namespace

AttentionBase::AttentionBase(const AttentionShape& shape)
    : q_proj(this, "q_proj", projection(shape, shape.num_heads)),
      k_proj(this, "k_proj", projection(shape, shape.num_kv_heads)),
      v_proj(this, "v_proj", projection(shape, shape.num_kv_heads)),
      out_proj(this, "out_proj", projection_back(shape)),
      shape_(completed(shape)) {}

Tensors AttentionBase::project(const Tensor& x, Context& ctx) const {
  const LinearModule *q = q_proj.typed(), *k = k_proj.typed(), *v = v_proj.typed();
  if (!q || !k || !v) return {q_proj(x, ctx), k_proj(x, ctx), v_proj(x, ctx)};
  return linear(x, {q->weight, k->weight, v->weight},
                {q->bias_or_none(), k->bias_or_none(), v->bias_or_none()});
}

double AttentionBase::flops_per_token(int64_t context) {
  const double keys = shape_.causal ? double(context) / 2 : double(context);
  return 2 * 2 * keys * double(shape_.num_heads * shape_.head_dim);
}

Tensor AttentionBase::forward(const Tensor& x, Context& ctx) {
  const AttentionShape& s = shape_;
  require(x.rank() == 3 && x.size(2) == s.embed_dim, s.layer, ": wanted x [B,T,", s.embed_dim,
          "], got ", x.shape());
  const int64_t batch = x.size(0), time = x.size(1);
  const Tensors qkv = project(x, ctx);
  Tensor q = view(qkv[0], {batch, time, s.num_heads, s.head_dim});
  Tensor k = view(qkv[1], {batch, time, s.num_kv_heads, s.head_dim});
  Tensor v = view(qkv[2], {batch, time, s.num_kv_heads, s.head_dim});
  prepare(q, k, ctx);
  if (ctx.cache) std::tie(k, v) = ctx.cache->append(k, v);
  const Tensor y = compute_attention(q, k, v, ctx);
  return out_proj(view(y, {batch, time, s.num_heads * s.head_dim}), ctx);
}

void AttentionBase::prepare(Tensor&, Tensor&, Context&) {}

Tensor AttentionBase::compute_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                        Context& ctx) {
  const AttentionShape& s = shape_;
  require(!ctx.cache || !ctx.documents.defined(), s.layer,
          ": documents and a cache do not go together");
  return flash_attention(q, k, v,
                         {.causal = s.causal,
                          .offset = k.size(1) - q.size(1),
                          .scale = *s.scale,
                          .softcap = s.softcap,
                          .mask = ctx.mask,
                          .documents = ctx.documents,
                          .dropout = ctx.rng ? s.dropout : 0,
                          .rng = ctx.rng});
}

AttentionwithRoPEBase::AttentionwithRoPEBase(const AttentionShape& shape, int64_t max_seq_len,
                                             double rope_theta)
    : AttentionBase(shape), angles_(attention_shape().head_dim, rope_theta, max_seq_len) {}

void AttentionwithRoPEBase::prepare(Tensor& q, Tensor& k, Context& ctx) {
  const auto [tables, places] = angles_.at(attention_shape().layer, q, ctx);
  std::tie(q, k) = rope(q, k, tables, places);
}

}  // namespace olm::nn
