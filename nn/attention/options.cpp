#include <algorithm>

#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

/// What a layer of `kind` is where options say nothing; `bias` stands for the biases of which the
/// row says something else.
AttentionOptions defaults_of(const AttentionKind& kind, std::optional<bool> bias) {
  const AttentionOptions common{.dropout = 0,
                                .causal = false,
                                .bias = true,
                                .rope_theta = 10000,
                                .use_qk_norm = false,
                                .qk_norm_all_heads = false,
                                .rms_norm_eps = 1e-6,
                                .use_rope = false,
                                .partial_rotary_factor = 1,
                                .use_alibi = false,
                                .use_attention_sink = false,
                                .rope_scaling = {.scaling_type = "none"},
                                .rope_pairing = "interleaved",
                                .use_output_gate = false,
                                .gate_per_head = false};
  AttentionOptions result = over(common, kind.defaults, kind.name);
  for (std::optional<bool>* own : {&result.use_bias, &result.qkv_bias})
    if (*own && bias) *own = bias;
  return result;
}

constexpr int64_t kMaxSize = int64_t(1) << 24;    // products of two are far from int64's bounds
constexpr int64_t kMaxWindow = int64_t(1) << 40;  // and so are sums with positions

void check_sizes(const char* layer, const AttentionOptions& o) {
  const int64_t kv_heads = o.num_kv_heads.value_or(o.num_heads);
  require(o.embed_dim > 0 && o.num_heads > 0 && kv_heads > 0, layer,
          ": wanted sizes above 0, got embed_dim ", o.embed_dim, ", num_heads ", o.num_heads,
          " and num_kv_heads ", kv_heads);
  const int64_t head_dim = o.head_dim.value_or(1), value_dim = o.value_dim.value_or(1);
  require(head_dim > 0 && value_dim > 0, layer, ": wanted sizes above 0, got head_dim ", head_dim,
          " and value_dim ", value_dim);
  for (const int64_t size : {o.embed_dim, o.num_heads, head_dim, value_dim})
    require(size <= kMaxSize, layer, ": wanted sizes of at most ", kMaxSize, ", got embed_dim ",
            o.embed_dim, ", num_heads ", o.num_heads, ", head_dim ", head_dim, " and value_dim ",
            value_dim);
  require(o.head_dim || o.kv_lora_rank || o.embed_dim % o.num_heads == 0, layer, ": embed_dim ",
          o.embed_dim, " does not divide into num_heads ", o.num_heads);
  require(o.num_heads % kv_heads == 0, layer, ": num_heads ", o.num_heads,
          " does not divide into num_kv_heads ", kv_heads);
}

/// The sizes of latent attention, which go with rows of it alone.
void check_latent_sizes(const char* layer, const AttentionOptions& o, bool latent) {
  const std::pair<const char*, std::optional<int64_t>> sizes[] = {
      {"kv_lora_rank", o.kv_lora_rank},
      {"qk_nope_head_dim", o.qk_nope_head_dim},
      {"qk_rope_head_dim", o.qk_rope_head_dim},
      {"q_lora_rank", o.q_lora_rank}};
  for (const auto& [name, size] : sizes) {
    require(latent || !size, layer, ": ", name, " is an option of latent attention alone");
    require(!size || (*size > 0 && *size <= kMaxSize), layer, ": wanted ", name, " from 1 to ",
            kMaxSize, ", got ", size.value_or(0));
  }
  if (!latent) return;
  require(o.num_kv_heads.value_or(o.num_heads) == o.num_heads && !o.head_dim, layer,
          ": heads share latent vectors and have the sizes qk_nope_head_dim, qk_rope_head_dim and "
          "value_dim; num_kv_heads and head_dim have no use");
  require(*o.use_rope && *o.partial_rotary_factor == 1 && !*o.use_qk_norm, layer,
          ": RoPE rotates qk_rope_head_dim dimensions and latent vectors are normed; use_rope, "
          "partial_rotary_factor and use_qk_norm have no use");
}

}  // namespace

AttentionOptions AttentionModule::completed(const AttentionOptions& given,
                                            const AttentionKind& kind) {
  AttentionOptions o = over(defaults_of(kind, given.bias), given, kind.name);
  const char* layer = kind.name.c_str();
  check_sizes(layer, o);
  check_latent_sizes(layer, o, kind.defaults.kv_lora_rank.has_value());
  checked_probability(layer, *o.dropout);
  const int64_t window = o.window_size.value_or(1);
  require(window > 0, layer, ": wanted window_size above 0, got ", window);
  require(window <= kMaxWindow, layer, ": wanted a window_size of at most ", kMaxWindow, ", got ",
          window);
  require(!o.attn_logit_softcap || *o.attn_logit_softcap > 0, layer,
          ": wanted attn_logit_softcap above 0, got ", o.attn_logit_softcap.value_or(0));
  require(!o.attention_scale || *o.attention_scale != 0, layer,
          ": wanted attention_scale other than 0");
  require(!*o.qk_norm_all_heads || *o.use_qk_norm, layer,
          ": qk_norm_all_heads has no use without use_qk_norm");
  require(!*o.gate_per_head || *o.use_output_gate, layer,
          ": gate_per_head has no use without use_output_gate");
  require(!*o.use_rope || o.max_seq_len, layer, ": RoPE wants a max_seq_len");
  if (!*o.use_rope) o.max_seq_len.reset();
  return o;
}

void AttentionModule::visit_options(FieldVisitor& v) {
  AttentionOptions own = options;
  ChangedFields changed(v, to_json(own), to_json(defaults_of(kind_, {})), kind_.fields);
  own.fields(changed);
}

void AttentionModule::visit_default_options(FieldVisitor& v) { defaults_of(kind_, {}).fields(v); }

double AttentionModule::flops_per_token(int64_t context) {
  double keys = double(context);
  // What a window leaves out are two triangles of scores, of context - window_size on each side.
  if (options.window_size && *options.window_size < context) {
    const double out = double(context - *options.window_size);
    keys -= out * (out / keys);
  }
  if (options.causal.value_or(false)) keys /= 2;
  return 2 * keys * double(options.num_heads * (head_dim() + value_dim()));
}

}  // namespace olm::nn
