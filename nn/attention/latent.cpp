#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/view.h>
#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

AttentionKind latent(AttentionKind kind) {
  AttentionOptions& d = kind.defaults;
  d.kv_lora_rank = d.kv_lora_rank.value_or(512);
  d.qk_nope_head_dim = d.qk_nope_head_dim.value_or(128);
  d.qk_rope_head_dim = d.qk_rope_head_dim.value_or(64);
  d.value_dim = d.value_dim.value_or(128);
  d.causal = d.causal.value_or(true);
  d.bias = d.bias.value_or(false);
  d.use_rope = true;
  return kind;
}

Ref<LinearModule> projection(const AttentionOptions& o, int64_t from, int64_t to) {
  return Linear(from, to, {.bias = o.qkv_bias.value_or(*o.bias)});
}

/// The last dimension of x cut in two behind its first `size` elements.
std::pair<Tensor, Tensor> cut(const Tensor& x, int64_t size) {
  return {slice(x, -1, 0, size), slice(x, -1, size)};
}

/// x [B,T,H,I] times a matrix w [H,I,J] of each head: [B,T,H,J].
Tensor by_heads(const Tensor& x, const Tensor& w) {
  return transpose(matmul(transpose(x, 1, 2), w), 1, 2);
}

}  // namespace

MultiHeadLatentAttentionModule::MultiHeadLatentAttentionModule(const AttentionOptions& o,
                                                               const AttentionKind& kind)
    : AttentionModule(o, latent(kind)),
      q_b_proj(this, options.q_lora_rank ? "q_b_proj" : "q_proj",
               projection(options, options.q_lora_rank.value_or(options.embed_dim),
                          options.num_heads * head_dim())),
      kv_a_proj_with_mqa(this, "kv_a_proj_with_mqa",
                         projection(options, options.embed_dim,
                                    *options.kv_lora_rank + *options.qk_rope_head_dim)),
      kv_a_layernorm(this, "kv_a_layernorm", RMSNorm(*options.kv_lora_rank, *options.rms_norm_eps)),
      kv_b_proj(this, "kv_b_proj",
                projection(options, *options.kv_lora_rank,
                           options.num_heads * (*options.qk_nope_head_dim + value_dim()))) {
  if (!options.q_lora_rank) return;
  q_a_proj.emplace(this, "q_a_proj", projection(options, options.embed_dim, *options.q_lora_rank));
  q_a_layernorm.emplace(this, "q_a_layernorm",
                        RMSNorm(*options.q_lora_rank, *options.rms_norm_eps));
}

QKV MultiHeadLatentAttentionModule::project(const Tensor& x, Context& ctx) {
  const int64_t batch = x.size(0), time = x.size(1);
  const Tensor to_queries = q_a_proj ? (*q_a_layernorm)((*q_a_proj)(x, ctx), ctx) : x;
  const Tensor heads =
      view(q_b_proj(to_queries, ctx), {batch, time, options.num_heads, head_dim()});
  const Tensor down = unsqueeze(kv_a_proj_with_mqa(x, ctx), 2);
  auto [q, q_rope] = cut(heads, *options.qk_nope_head_dim);
  auto [c, k_rope] = cut(down, *options.kv_lora_rank);
  rotate(q_rope, k_rope, ctx);
  const Tensor k = cat({kv_a_layernorm(c, ctx), k_rope}, -1);
  return {.q = cat({q, q_rope}, -1), .k = k, .v = slice(k, -1, 0, 0)};
}

Tensor MultiHeadLatentAttentionModule::attend(const Tensor& q, const Tensor& k, const Tensor&,
                                              Context& ctx) {
  if (absorbs(q, k, ctx)) return attend_latents(q, k, ctx);
  const int64_t batch = k.size(0), keys = k.size(1), heads = options.num_heads;
  const auto [latents, shared] = cut(k, *options.kv_lora_rank);
  const Tensor made =
      view(kv_b_proj(latents, ctx), {batch, keys, heads, *options.qk_nope_head_dim + value_dim()});
  const auto [own, v] = cut(made, *options.qk_nope_head_dim);
  const Tensor rope = expand(shared, {batch, keys, heads, *options.qk_rope_head_dim});
  return AttentionModule::attend(q, cat({own, rope}, -1), v, ctx);
}

/// Multiplications of one head: of kv_b_proj with each key or each query, and of the scores.
bool MultiHeadLatentAttentionModule::absorbs(const Tensor& q, const Tensor& k,
                                             const Context& ctx) const {
  const LinearModule* up = kv_b_proj.typed();
  if (!ctx.cache || !up || up->bias) return false;
  const double queries = double(q.size(1)), keys = double(k.size(1));
  const double rank = double(*options.kv_lora_rank), rope = double(*options.qk_rope_head_dim);
  const double own = double(*options.qk_nope_head_dim + value_dim());
  return queries * (rank * own + keys * (2 * rank + rope)) <
         keys * (rank * own + queries * (own + rope));
}

/// q·(W_k c) = (W_kᵀ q)·c and Σ p (W_v c) = W_v Σ p c: heads attend the latent vectors.
Tensor MultiHeadLatentAttentionModule::attend_latents(const Tensor& q, const Tensor& k,
                                                      Context& ctx) {
  const int64_t nope = *options.qk_nope_head_dim, rank = *options.kv_lora_rank;
  const Tensor up = cast(kv_b_proj.typed()->weight, q.dtype());
  const Tensor of_heads = view(up, {options.num_heads, nope + value_dim(), rank});
  const auto [own, rope] = cut(q, nope);
  const Tensor to_latents = by_heads(own, slice(of_heads, 1, 0, nope));
  const Tensor seen =
      AttentionModule::attend(cat({to_latents, rope}, -1), k, slice(k, -1, 0, rank), ctx);
  return by_heads(seen, transpose(slice(of_heads, 1, nope), 1, 2));
}

}  // namespace olm::nn
