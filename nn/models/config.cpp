// The members of a decoder's configuration, each named once.
#include <algorithm>

#include <olm/nn/decoder.h>

namespace olm::nn {

namespace {

template <class T>
constexpr bool is_optional = false;
template <class T>
constexpr bool is_optional<std::optional<T>> = true;
template <class T>
constexpr bool is_list = false;
template <class T>
constexpr bool is_list<std::vector<T>> = true;

bool is_unset(const RopeScalingOptions& scaling) {
  return to_json(scaling) == to_json(RopeScalingOptions());
}

/// visit(key, pointer to member, info) of every member that all families have.
void each_common_member(auto&& visit) {
  using C = DecoderConfig;
  visit("vocab_size", &C::vocab_size, FieldInfo{.min = 1, .help = "ids of the tokenizer"});
  visit("num_layers", &C::num_layers,
        FieldInfo{.min = 1, .max = 10000, .help = "transformer layers"});
  visit("embed_dim", &C::embed_dim, FieldInfo{.min = 1, .max = 1000000, .help = "width"});
  visit("num_heads", &C::num_heads,
        FieldInfo{.min = 1,
                  .max = 1000000,
                  .help = "attention heads, which divide embed_dim where there is no head_dim"});
  visit(
      "max_seq_len", &C::max_seq_len,
      FieldInfo{.min = 2, .max = 10000000, .help = "context in tokens, in training and sampling"});
  visit("dropout", &C::dropout, FieldInfo{.min = 0, .max = 0.99, .help = "dropout probability"});
  visit("tie_weights", &C::tie_weights, FieldInfo{.help = "the head uses the embedding's matrix"});
  visit("intermediate_size", &C::intermediate_size,
        FieldInfo{.min = 1,
                  .max = 10000000,
                  .help = "width inside the feed-forward layers; where left out 8/3 of embed_dim, "
                          "up to a multiple of 64, of gated ones and 4 times embed_dim of others"});
}

/// The same of members that some families have.
void each_other_member(auto&& visit) {
  using C = DecoderConfig;
  visit("num_kv_heads", &C::num_kv_heads,
        FieldInfo{.min = 1,
                  .max = 1000000,
                  .help = "key and value heads, which divide num_heads; as many where left out"});
  visit("head_dim", &C::head_dim,
        FieldInfo{.min = 1,
                  .max = 1000000,
                  .help = "width of a head; where left out embed_dim / num_heads"});
  visit("rope_theta", &C::rope_theta,
        FieldInfo{.above = 0, .help = "base of the rotary frequencies"});
  visit("local_rope_theta", &C::local_rope_theta,
        FieldInfo{.above = 0, .help = "the same in layers with a window"});
  visit("rms_norm_eps", &C::rms_norm_eps,
        FieldInfo{.min = 0, .max = 1, .help = "added to mean squares"});
  visit("bias", &C::bias, FieldInfo{.help = "biases in linear layers"});
  visit("attention_bias", &C::attention_bias,
        FieldInfo{.help = "biases in attention; as bias says where left out"});
  visit("mlp_bias", &C::mlp_bias,
        FieldInfo{.help = "biases in feed-forward layers; as bias says where left out"});
  visit("activation", &C::activation,
        FieldInfo{.one_of = {"gelu", "relu", "swiglu", "geglu"}, .help = "of feed-forward layers"});
  visit("gelu_tanh", &C::gelu_tanh,
        FieldInfo{.help = "GELU by tanh, as the published weights want it"});
  visit("norm_plus_one", &C::norm_plus_one,
        FieldInfo{.help = "norms multiply by 1 + weight, as the published weights want it"});
  visit("sliding_window", &C::sliding_window,
        FieldInfo{.min = 1, .help = "tokens that a token attends; all where left out"});
  visit("sliding_window_pattern", &C::sliding_window_pattern,
        FieldInfo{.min = 1,
                  .help = "of so many layers the last has no window; all have one where left out"});
  visit("window_layers", &C::window_layers,
        FieldInfo{.min = 0,
                  .help = "the layers that have a window, counted from 0; as "
                          "sliding_window_pattern says where left out"});
  visit("attn_logit_softcap", &C::attn_logit_softcap,
        FieldInfo{.above = 0, .help = "c: scores s of attention become c tanh(s / c)"});
  visit("final_logit_softcap", &C::final_logit_softcap,
        FieldInfo{.above = 0, .help = "the same of the logits"});
  visit("query_pre_attn_scalar", &C::query_pre_attn_scalar,
        FieldInfo{.above = 0,
                  .help = "scores are divided by its root; by that of head_dim where left out"});
}

/// The same of RoPE's variants, mixtures of experts and latent attention.
void each_large_member(auto&& visit) {
  using C = DecoderConfig;
  visit("rope_pairing", &C::rope_pairing, rope_pairing_info());
  visit("partial_rotary_factor", &C::partial_rotary_factor,
        FieldInfo{.max = 1, .above = 0, .help = "share of a head that RoPE rotates; all of it"});
  visit("rope_scaling", &C::rope_scaling, FieldInfo{});
  visit("num_experts", &C::num_experts,
        FieldInfo{.min = 1, .max = 100000, .help = "experts of a layer"});
  visit("num_shared_experts", &C::num_shared_experts,
        FieldInfo{.min = 0, .max = 1000, .help = "experts that all tokens use, beside them"});
  visit("top_k", &C::top_k, FieldInfo{.min = 1, .help = "experts that a token is sent to"});
  visit("moe_intermediate_size", &C::moe_intermediate_size,
        FieldInfo{.min = 1,
                  .max = 10000000,
                  .help = "width inside an expert; where left out intermediate_size"});
  visit("first_k_dense_replace", &C::first_k_dense_replace,
        FieldInfo{.min = 0, .help = "first layers that have no experts"});
  visit("routed_scaling_factor", &C::routed_scaling_factor,
        FieldInfo{.above = 0, .help = "of what experts give, but shared ones"});
  visit("norm_topk_prob", &C::norm_topk_prob,
        FieldInfo{.help = "the weights of a token's experts add up to 1"});
  visit("n_group", &C::n_group, FieldInfo{.min = 1, .help = "groups of experts"});
  visit("topk_group", &C::topk_group,
        FieldInfo{.min = 1, .help = "groups that a token's experts are of"});
  visit("load_balancing_coefficient", &C::load_balancing_coefficient,
        FieldInfo{.min = 0, .help = "of the loss that grows where experts are used unevenly"});
  visit("z_loss_coefficient", &C::z_loss_coefficient,
        FieldInfo{.min = 0, .help = "of the loss that keeps scores of routers small"});
  visit("bias_update_rate", &C::bias_update_rate,
        FieldInfo{.min = 0, .help = "how far biases that balance experts move in a step"});
  const auto size = [](const char* help) {
    return FieldInfo{.min = 1, .max = 1000000, .help = help};
  };
  visit("q_lora_rank", &C::q_lora_rank, size("of queries' latent vectors; none where left out"));
  visit("kv_lora_rank", &C::kv_lora_rank, size("of the latent vectors of keys and values"));
  visit("qk_nope_head_dim", &C::qk_nope_head_dim, size("of a head's key without RoPE"));
  visit("qk_rope_head_dim", &C::qk_rope_head_dim, size("of the key with RoPE, which heads share"));
  visit("v_head_dim", &C::v_head_dim, size("of a head's value"));
}

/// The same of members that make families what they are.
void each_structural_member(auto&& visit) {
  using C = DecoderConfig;
  visit("qkv_bias", &C::qkv_bias,
        FieldInfo{.help = "biases of queries, keys and values; as attention_bias says"});
  visit("use_qk_norm", &C::use_qk_norm, FieldInfo{.help = "RMSNorm of queries and keys"});
  visit("qk_norm_all_heads", &C::qk_norm_all_heads,
        FieldInfo{.help = "the same over all heads together"});
  visit("scoring_func", &C::scoring_func,
        FieldInfo{.one_of = {"softmax", "sigmoid"}, .help = "of routers"});
  visit("use_expert_bias", &C::use_expert_bias, FieldInfo{.help = "biases that balance experts"});
  visit("attention", &C::attention,
        FieldInfo{.help = "the layer where there are as many key heads as query heads"});
  visit("norm", &C::norm, FieldInfo{.one_of = {"rms_norm", "layer_norm"}, .help = "of all layers"});
  visit("norm_affine", &C::norm_affine, FieldInfo{.help = "layer_norm has parameters"});
  visit("layer_norm_eps", &C::layer_norm_eps,
        FieldInfo{.min = 0, .max = 1, .help = "added to variances"});
  visit("final_norm_eps", &C::final_norm_eps,
        FieldInfo{.min = 0, .max = 1, .help = "the same in the last norm; as in others"});
  visit("pre_norm", &C::pre_norm, FieldInfo{.help = "norms before attention and feed-forward"});
  visit("post_norm", &C::post_norm, FieldInfo{.help = "norms after them, before the addition"});
  visit("positions", &C::positions,
        FieldInfo{.one_of = {"rope", "absolute"}, .help = "how the model knows places"});
  visit("scale_embedding", &C::scale_embedding,
        FieldInfo{.help = "embeddings are multiplied by the root of embed_dim"});
  visit("joint_embedding", &C::joint_embedding,
        FieldInfo{.help = "embedding and positions form a block"});
  visit("norm_in_head", &C::norm_in_head, FieldInfo{.help = "the last norm is part of the head"});
}

/// All of these; `listed` are those that the family has.
void each_member(const DecoderFamily& family, auto&& visit) {
  const auto has = [&keys = family.keys](const std::string& key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  const auto of_some = [&](const char* key, auto member, FieldInfo info) {
    visit(key, member, std::move(info), has("*") || has(key));
  };
  each_common_member([&](const char* key, auto member, FieldInfo info) {
    visit(key, member, std::move(info), true);
  });
  each_other_member(of_some);
  each_large_member(of_some);
  each_structural_member(of_some);
}

}  // namespace

void DecoderConfig::fields(FieldVisitor& v) {
  const DecoderFamily row = decoders().get(family);
  const auto visit = [&]<class T>(const char* key, T DecoderConfig::*member, FieldInfo info,
                                  bool listed) {
    if (!listed) return;
    T& held = this->*member;
    const T& usual = row.defaults.*member;
    if constexpr (is_optional<T>) {
      if (usual) {
        typename T::value_type plain = held.value_or(*usual);
        v(key, plain, std::move(info));
        if (held || plain != *usual) held = plain;
        return;
      }
    }
    v(key, held, std::move(info));
  };
  each_member(row, visit);
}

Json DecoderConfig::given() const {
  Json result = Json::object();
  const auto add = [&]<class T>(const char* key, T DecoderConfig::*member, FieldInfo, bool) {
    if constexpr (is_optional<T>) {
      if (this->*member) result[key] = Json(*(this->*member));
    } else if constexpr (HasFields<T>) {
      if (!is_unset(this->*member)) result[key] = to_json(this->*member);
    } else if constexpr (is_list<T>) {
      if (!(this->*member).empty()) result[key] = Json(this->*member);
    } else {
      result[key] = Json(this->*member);
    }
  };
  each_member(decoders().get(family), add);
  return result;
}

DecoderConfig DecoderConfig::completed() const {
  const DecoderFamily row = decoders().get(family);
  DecoderConfig result = *this;
  const auto check = [&]<class T>(const char* key, T DecoderConfig::*member, const FieldInfo& info,
                                  bool listed) {
    const T &own = this->*member, &usual = row.defaults.*member;
    if constexpr (is_optional<T>) {
      require(listed || !own || own == usual, family, ": has no ", key,
              " that could be set; a family that has one is a row of decoders()");
      if constexpr (!std::is_same_v<T, std::optional<bool>>)
        if (own) check_value(family + "." + key, info, *own);
    } else if constexpr (HasFields<T>) {
      require(listed || is_unset(own), family, ": has no ", key, " that could be set");
      check_fields(own, family + "." + key);
    } else if constexpr (is_list<T>) {
      require(listed || own.empty() || own == usual, family, ": has no ", key,
              " that could be set");
      for (const auto& item : own) check_value(family + "." + key, info, item);
    } else if constexpr (!std::is_same_v<T, bool>) {
      check_value(family + "." + key, info, own);
    }
  };
  each_member(row, check);
  result.fill_from(row.defaults);
  return result;
}

void DecoderConfig::fill_from(const DecoderConfig& other) {
  each_member({}, [&]<class T>(const char*, T DecoderConfig::*member, const FieldInfo&, bool) {
    if constexpr (HasFields<T>) {
      if (is_unset(this->*member)) this->*member = other.*member;
    } else if constexpr (!std::is_same_v<T, bool>) {
      if (this->*member == T()) this->*member = other.*member;
    }
  });
}

}  // namespace olm::nn
