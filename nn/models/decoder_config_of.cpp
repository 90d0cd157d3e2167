// The configuration of a model, from its tree of layers.
#include <algorithm>
#include <cmath>

#include <olm/nn/attention.h>
#include <olm/nn/description.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models/decoder_internal.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>

namespace olm::nn {

namespace {

template <class M>
M* as(const Ref<Module>& module) {
  return dynamic_cast<M*>(module.get());
}

/// Reads a tree of layers into a configuration of every key. It looks no closer than it must: what
/// the configuration makes is compared with the tree afterwards.
class Reader {
 public:
  DecoderConfig read(Module& model) {
    auto* root = dynamic_cast<BlockModule*>(&model);
    require(root != nullptr, "the model is a ", model.type_name(), ", no Block of a decoder");
    for (size_t i = 0; i < root->blocks.size(); ++i) read_part(root->blocks.at(i));
    require(tokens_ && layers_ && head_, "the model has no ",
            !tokens_   ? "Embedding"
            : !layers_ ? "Repeat of layers"
                       : "OutputHead",
            " where a decoder has one");
    read_rope();
    read_ends();
    return c_;
  }

 private:
  void read_part(const Ref<Module>& part) {
    if (auto* tokens = as<EmbeddingModule>(part)) {
      tokens_ = tokens;
      c_.vocab_size = tokens->options.vocab_size;
      c_.embed_dim = tokens->options.embedding_dim;
      c_.scale_embedding = tokens->options.scale != 1;
    } else if (auto* places = as<AbsolutePositionalEmbeddingModule>(part)) {
      c_.positions = "absolute";
      c_.max_seq_len = places->options.max_seq_len;
      c_.dropout = places->options.dropout;
    } else if (auto* layers = as<RepeatModule>(part)) {
      layers_ = layers;
      c_.num_layers = int64_t(layers->stack.size());
      for (int64_t i = 0; i < c_.num_layers; ++i) read_layer(layers->stack.at(size_t(i)), i);
    } else if (auto* head = as<OutputHeadModule>(part)) {
      head_ = head;
    } else if (auto* joint = as<BlockModule>(part)) {
      c_.joint_embedding = true;
      for (size_t i = 0; i < joint->blocks.size(); ++i) read_part(joint->blocks.at(i));
    } else if (eps_of(part)) {
      final_eps_ = eps_of(part);
    } else if (auto* dropout = as<Layer<DropoutOptions>>(part)) {
      c_.dropout = dropout->options.p;
    }
  }

  /// The epsilon of a norm; none of another layer.
  std::optional<double> eps_of(const Ref<Module>& module) const {
    if (auto* norm = as<RMSNormModule>(module)) return norm->options.eps;
    if (auto* norm = as<LayerNormModule>(module)) return norm->options.eps;
    return {};
  }

  void read_layer(const Ref<Module>& layer, int64_t index) {
    auto* parts = as<BlockModule>(layer);
    for (size_t i = 0; parts && i < parts->blocks.size(); ++i) {
      auto* added = as<ResidualModule>(parts->blocks.at(i));
      auto* block = added ? as<BlockModule>(added->block.module()) : nullptr;
      if (!block) continue;
      bool seen = false;
      for (size_t j = 0; j < block->blocks.size(); ++j) {
        const Ref<Module> part = block->blocks.at(j);
        if (eps_of(part)) {
          read_norm(part);
          (seen ? c_.post_norm : c_.pre_norm) = true;
        } else if (auto* attention = as<AttentionModule>(part)) {
          seen = true;
          read_attention(*attention, index);
        } else {
          seen = true;
          read_feed_forward(part, index);
        }
      }
    }
  }

  void read_norm(const Ref<Module>& module) {
    if (auto* norm = as<RMSNormModule>(module)) {
      c_.norm = "rms_norm";
      c_.rms_norm_eps = norm->options.eps;
      c_.norm_plus_one = norm->options.plus_one;
    } else if (auto* norm = as<LayerNormModule>(module)) {
      c_.norm = "layer_norm";
      c_.layer_norm_eps = norm->options.eps;
      c_.norm_affine = norm->options.elementwise_affine;
    }
  }

  void read_attention(const AttentionModule& module, int64_t layer) {
    const AttentionOptions& o = module.options;
    attention_.push_back(o);
    if (o.window_size) {
      c_.sliding_window = o.window_size;
      c_.window_layers.push_back(layer);
    }
    if (layer > 0) return;
    c_.num_heads = o.num_heads;
    c_.num_kv_heads = o.num_kv_heads;
    c_.head_dim = o.head_dim;
    c_.dropout = o.dropout.value_or(0);
    c_.attention_bias = o.bias.value_or(true);
    c_.qkv_bias = o.qkv_bias;
    c_.use_qk_norm = o.use_qk_norm.value_or(false);
    c_.qk_norm_all_heads = o.qk_norm_all_heads.value_or(false);
    c_.attn_logit_softcap = o.attn_logit_softcap;
    if (o.attention_scale) c_.query_pre_attn_scalar = under_root(*o.attention_scale);
    if (module.kv_heads() == o.num_heads) c_.attention = module.type_name();
    if (!dynamic_cast<const MultiHeadLatentAttentionModule*>(&module)) return;
    c_.attention.reset();
    c_.num_kv_heads.reset();
    c_.head_dim.reset();
    c_.q_lora_rank = o.q_lora_rank;
    c_.kv_lora_rank = o.kv_lora_rank;
    c_.qk_nope_head_dim = o.qk_nope_head_dim;
    c_.qk_rope_head_dim = o.qk_rope_head_dim;
    c_.v_head_dim = o.value_dim;
  }

  /// x with 1 / sqrt(x) = scale: a whole number where there is one.
  static double under_root(double scale) {
    const double x = 1 / (scale * scale);
    return 1 / std::sqrt(std::round(x)) == scale ? std::round(x) : x;
  }

  void read_feed_forward(const Ref<Module>& module, int64_t layer) {
    if (auto* ffn = as<ClassicFFNModule>(module)) {
      const ClassicFFNOptions& o = ffn->options;
      c_.gelu_tanh = o.activation == "gelu_tanh";
      c_.activation = *c_.gelu_tanh ? "gelu" : o.activation;
      c_.intermediate_size = o.hidden_dim;
      c_.mlp_bias = o.bias;
    } else if (auto* ffn = as<GatedFFNModule>(module)) {
      const GatedFFNOptions& o = ffn->options;
      c_.gelu_tanh = o.gated_unit == "geglu_tanh";
      c_.activation = *c_.gelu_tanh ? "geglu" : o.gated_unit;
      c_.intermediate_size = o.hidden_dim;
      c_.mlp_bias = o.bias;
    } else if (auto* mixture = as<MoEFFNBase<GatedMoEFFNOptions>>(module)) {
      if (!c_.num_experts) c_.first_k_dense_replace = layer;
      read_mixture(mixture->options, mixture->type_name());
    }
  }

  void read_mixture(const GatedMoEFFNOptions& o, const std::string& name) {
    c_.activation = name == "GeGLUMoEFFN" ? "geglu" : "swiglu";
    c_.num_experts = o.num_experts;
    c_.num_shared_experts = o.num_shared_experts;
    c_.top_k = o.top_k;
    c_.moe_intermediate_size = o.hidden_dim;
    c_.mlp_bias = o.bias;
    c_.scoring_func = o.routing.scoring_func;
    c_.norm_topk_prob = o.routing.norm_topk_prob;
    c_.routed_scaling_factor = o.routing.routed_scaling_factor;
    c_.n_group = o.routing.n_group;
    c_.topk_group = o.routing.topk_group;
    c_.load_balancing_coefficient = o.routing.load_balancing_coefficient;
    c_.z_loss_coefficient = o.routing.z_loss_coefficient;
    c_.use_expert_bias = o.routing.use_expert_bias;
    c_.bias_update_rate = o.routing.bias_update_rate;
  }

  /// Of layers with and without a window.
  void read_rope() {
    if (attention_.empty() || c_.positions) return;
    c_.positions = "rope";
    const auto windowed = [](const AttentionOptions& o) { return o.window_size.has_value(); };
    const auto local = std::find_if(attention_.begin(), attention_.end(), windowed);
    const auto global = std::find_if_not(attention_.begin(), attention_.end(), windowed);
    const AttentionOptions& o = global == attention_.end() ? attention_.front() : *global;
    c_.max_seq_len = o.max_seq_len.value_or(0);
    c_.rope_theta = o.rope_theta;
    c_.rope_scaling = o.rope_scaling;
    c_.rope_pairing = o.rope_pairing;
    c_.partial_rotary_factor = o.partial_rotary_factor;
    if (local == attention_.end() || global == attention_.end()) return;
    if (local->rope_theta != o.rope_theta ||
        !(to_json(local->rope_scaling) == to_json(o.rope_scaling)))
      c_.local_rope_theta = local->rope_theta;
  }

  void read_ends() {
    c_.final_logit_softcap = head_->options.softcap;
    c_.norm_in_head = head_->options.use_norm;
    if (*c_.norm_in_head) final_eps_ = eps_of(head_->blocks.at(0));
    const auto& eps = c_.norm == "layer_norm" ? c_.layer_norm_eps : c_.rms_norm_eps;
    if (final_eps_ != eps) c_.final_norm_eps = final_eps_;
    auto* projection = as<LinearModule>(head_->blocks.at(1));
    c_.tie_weights = projection && projection->weight.is_tied_to(tokens_->weight);
  }

  DecoderConfig c_ = {.family = "decoder", .pre_norm = false, .post_norm = false};
  EmbeddingModule* tokens_ = nullptr;
  RepeatModule* layers_ = nullptr;
  OutputHeadModule* head_ = nullptr;
  std::vector<AttentionOptions> attention_ = {};
  std::optional<double> final_eps_ = {};
};

std::string shown(const Json* value) { return value ? value->dump() : "nothing"; }

/// What first differs between the descriptions of a model and of what a configuration gives; ""
/// where nothing does.
std::string difference(const Json& model, const Json& made, const std::string& where) {
  const auto prefix = where.empty() ? std::string("the model") : where;
  if (!(model.at("type") == made.at("type")))
    return prefix + " is a " + model.at("type").as_string() + " where a decoder has a " +
           made.at("type").as_string();
  const Json none = Json::object();
  const auto part = [&](const Json& of, const char* name) -> const Json& {
    const Json* found = of.find(name);
    return found ? *found : none;
  };
  const Json &options = part(model, "options"), &usual = part(made, "options");
  for (const Json* side : {&options, &usual})
    for (const auto& [key, unused] : side->members()) {
      const Json *has = options.find(key), *wants = usual.find(key);
      if (!has || !wants || !(*has == *wants))
        return prefix + " has " + key + " " + shown(has) + " where a decoder has " + shown(wants);
    }
  const Json &children = part(model, "children"), &others = part(made, "children");
  for (const auto& [name, child] : children.members()) {
    const std::string path = where.empty() ? name : where + "." + name;
    const Json* other = others.find(name);
    if (!other) return path + " is a layer that a decoder does not have";
    if (const std::string found = difference(child, *other, path); !found.empty()) return found;
  }
  for (const auto& [name, unused] : others.members())
    if (!children.contains(name)) return prefix + " has no " + name + ", which a decoder has";
  return "";
}

/// The families in the order in which they are tried.
std::vector<std::string> tried(const std::string& hint) {
  std::vector<std::string> names;
  if (!hint.empty() && decoders().contains(hint)) names.push_back(hint);
  for (const std::string& name : decoders().names())
    if (name != hint && name != "decoder") names.push_back(name);
  names.push_back("decoder");
  return names;
}

}  // namespace

DecoderConfig decoder_config_of(Module& model, const std::string& hint) {
  const DecoderConfig read = Reader().read(model).completed();
  const Json described = describe(model);
  const std::string wrong = difference(described, describe(*DecoderModel(read)), "");
  require(wrong.empty(), "no configuration gives this model: ", wrong);
  for (const std::string& family : tried(hint)) {
    const std::optional<DecoderConfig> own = in_family(family, read);
    if (own && describe(*DecoderModel(*own)) == described) return *own;
  }
  return read;
}

}  // namespace olm::nn
