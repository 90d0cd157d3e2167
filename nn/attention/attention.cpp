#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/flash_attention.h>
#include <olm/autograd/ops/linear.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/view.h>
#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

Ref<LinearModule> projection_of(const AttentionOptions& o, int64_t features) {
  const bool bias = o.qkv_bias.value_or(*o.bias);
  return Linear(o.embed_dim, features, {.bias = bias});
}

/// A child from x to the heads: none where latent vectors come between.
std::optional<Child<LinearModule>> direct(Module* owner, const char* name,
                                          const AttentionOptions& o, int64_t features) {
  using Slot = std::optional<Child<LinearModule>>;
  return o.kv_lora_rank ? Slot() : Slot(std::in_place, owner, name, projection_of(o, features));
}

Ref<LinearModule> projection_back(const AttentionOptions& o, int64_t features) {
  const bool bias = o.use_bias.value_or(*o.bias);
  return Linear(features, o.embed_dim, {.bias = bias});
}

Ref<LinearModule> gate_of(const AttentionOptions& o, int64_t value_dim) {
  const int64_t gates = o.num_heads * (*o.gate_per_head ? 1 : value_dim);
  const Ref<LinearModule> gate = Linear(o.embed_dim, gates, {.bias = false});
  if (*o.gate_per_head) gate->weight.set_rule(init::normal(0.02));
  return gate;
}

RotaryAngles angles_of(const char* layer, const AttentionOptions& o, int64_t head_dim) {
  if (o.qk_rope_head_dim) head_dim = *o.qk_rope_head_dim;
  const double share = *o.partial_rotary_factor;
  const int64_t rotated =
      share == 1 ? head_dim : rotated_dims(layer, "partial_rotary_factor", head_dim, share);
  return RotaryAngles(rotated, *o.rope_theta, *o.max_seq_len, o.rope_scaling,
                      rope_pairing(*o.rope_pairing));
}

}  // namespace

AttentionModule::AttentionModule(const AttentionOptions& o, const AttentionKind& kind)
    : options(completed(o, kind)),
      q_proj(direct(this, "q_proj", options, options.num_heads * head_dim())),
      k_proj(direct(this, "k_proj", options, kv_heads() * head_dim())),
      v_proj(direct(this, "v_proj", options, kv_heads() * value_dim())),
      out_proj(this, "out_proj", projection_back(options, options.num_heads * value_dim())),
      kind_(kind) {
  if (*options.use_qk_norm) {
    const bool all = *options.qk_norm_all_heads;
    const auto norm = [&](int64_t heads) {
      return RMSNorm(all ? heads * head_dim() : head_dim(), *options.rms_norm_eps);
    };
    q_norm.emplace(this, "q_norm", norm(options.num_heads));
    k_norm.emplace(this, "k_norm", norm(kv_heads()));
  }
  if (*options.use_attention_sink)
    attention_sink.emplace(this, "attention_sink", Shape{options.num_heads}, init::zeros);
  if (*options.use_output_gate)
    output_gate.emplace(this, "output_gate", gate_of(options, value_dim()));
  if (*options.use_rope) angles_ = angles_of(kind_.name.c_str(), options, head_dim());
  if (*options.use_alibi) slopes_.emplace(this, "slopes", alibi_slopes(options.num_heads));
}

int64_t AttentionModule::head_dim() const {
  if (options.kv_lora_rank) return *options.qk_nope_head_dim + *options.qk_rope_head_dim;
  return options.head_dim.value_or(options.embed_dim / options.num_heads);
}

double AttentionModule::scale() const {
  if (options.attention_scale) return *options.attention_scale;
  const double factor = options.kv_lora_rank && angles_ ? angles_->latent_score_factor() : 1;
  return factor / std::sqrt(double(head_dim()));
}

Tensors AttentionModule::projections(const Tensor& x, Context& ctx) const {
  require(q_proj && k_proj && v_proj, kind_.name,
          ": a row with a kv_lora_rank wants a class whose project() makes latent vectors");
  const LinearModule *q = q_proj->typed(), *k = k_proj->typed(), *v = v_proj->typed();
  if (!q || !k || !v) return {(*q_proj)(x, ctx), (*k_proj)(x, ctx), (*v_proj)(x, ctx)};
  return linear(x, {q->weight, k->weight, v->weight},
                {q->bias_or_none(), k->bias_or_none(), v->bias_or_none()});
}

QKV AttentionModule::project(const Tensor& x, Context& ctx) {
  const int64_t batch = x.size(0), time = x.size(1);
  const Tensors qkv = projections(x, ctx);
  const auto by_heads = [&](const Tensor& x, int64_t heads, const auto& norm) {
    const Shape shape{batch, time, heads, head_dim()};
    if (!norm) return view(x, shape);
    return *options.qk_norm_all_heads ? view((*norm)(x, ctx), shape) : (*norm)(view(x, shape), ctx);
  };
  Tensor q = by_heads(qkv[0], options.num_heads, q_norm);
  Tensor k = by_heads(qkv[1], kv_heads(), k_norm);
  const Tensor v = view(qkv[2], {batch, time, kv_heads(), value_dim()});
  rotate(q, k, ctx);
  return {.q = q, .k = k, .v = v};
}

void AttentionModule::rotate(Tensor& q, Tensor& k, const Context& ctx) const {
  if (!angles_) return;
  std::tie(q, k) = angles_->rotate(kind_.name.c_str(), q, k, ctx);
}

Tensor AttentionModule::forward(const Tensor& x, Context& ctx) {
  require(x.rank() == 3 && x.size(2) == options.embed_dim, kind_.name, ": wanted x [B,T,",
          options.embed_dim, "], got ", x.shape());
  require(!ctx.cache || !ctx.documents.defined(), kind_.name,
          ": documents and a cache do not go together");
  auto [q, k, v] = project(x, ctx);
  if (ctx.cache) std::tie(k, v) = ctx.cache->append(k, v, options.window_size.value_or(0));
  const Tensor y = gated(attend(q, k, v, ctx), x, ctx);
  return out_proj(reshape(y, {x.size(0), x.size(1), options.num_heads * value_dim()}), ctx);
}

Tensor AttentionModule::gated(const Tensor& y, const Tensor& x, Context& ctx) const {
  if (!output_gate) return y;
  const int64_t of_head = *options.gate_per_head ? 1 : value_dim();
  const Tensor gate = sigmoid((*output_gate)(x, ctx));
  return y * view(gate, {x.size(0), x.size(1), options.num_heads, of_head});
}

Tensor AttentionModule::attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) {
  return flash_attention(q, k, v,
                         {.causal = *options.causal,
                          .offset = k.size(1) - q.size(1),
                          .window = options.window_size.value_or(0),
                          .scale = scale(),
                          .softcap = options.attn_logit_softcap.value_or(0),
                          .slopes = slopes(q),
                          .sink = sink(),
                          .mask = mask_of_keys(k.size(1), ctx),
                          .documents = ctx.documents,
                          .dropout = ctx.rng ? *options.dropout : 0,
                          .rng = ctx.rng});
}

Tensor AttentionModule::slopes(const Tensor& x) const {
  if (!slopes_) return {};
  return slopes_->as(acc_options(x));
}

Tensor AttentionModule::mask_of_keys(int64_t keys, const Context& ctx) const {
  const Tensor& mask = ctx.mask;
  if (!ctx.cache || !options.window_size || !mask.defined() || mask.rank() == 0) return mask;
  const bool of_all = mask.size(-1) > keys && mask.size(-1) > 1;
  return of_all ? slice(mask, -1, mask.size(-1) - keys) : mask;
}

}  // namespace olm::nn
