// The families of other programs' models: names of their modules, and the parts in them.
#include <algorithm>

#include <olm/nn/hub/names_internal.h>

namespace olm::nn::hub {

namespace {

using Modules = std::vector<ModuleName>;

Modules operator+(Modules a, const Modules& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// ---- Hugging Face ------------------------------------------------------------------------------

const Modules kEnds = {
    {"model.embed_tokens", "embed"}, {"model.norm", "final_norm"}, {"lm_head", "head"}};

const Modules kAttention = {{"model.layers.{l}.self_attn.q_proj", "q"},
                            {"model.layers.{l}.self_attn.k_proj", "k"},
                            {"model.layers.{l}.self_attn.v_proj", "v"},
                            {"model.layers.{l}.self_attn.o_proj", "o"}};

const Modules kQkNorm = {{"model.layers.{l}.self_attn.q_norm", "q_norm"},
                         {"model.layers.{l}.self_attn.k_norm", "k_norm"}};

const Modules kFusedAttention = {{"model.layers.{l}.self_attn.qkv_proj", "q k v"},
                                 {"model.layers.{l}.self_attn.o_proj", "o"}};

const Modules kGated = {{"model.layers.{l}.mlp.gate_proj", "gate"},
                        {"model.layers.{l}.mlp.up_proj", "up"},
                        {"model.layers.{l}.mlp.down_proj", "down"}};

const Modules kFusedGated = {{"model.layers.{l}.mlp.gate_up_proj", "gate up"},
                             {"model.layers.{l}.mlp.down_proj", "down"}};

const Modules kMixtralExperts = {
    {"model.layers.{l}.block_sparse_moe.gate", "router"},
    {"model.layers.{l}.block_sparse_moe.experts.{e}.w1", "expert_gate"},
    {"model.layers.{l}.block_sparse_moe.experts.{e}.w3", "expert_up"},
    {"model.layers.{l}.block_sparse_moe.experts.{e}.w2", "expert_down"}};

const Modules kQwenExperts = {{"model.layers.{l}.mlp.gate", "router"},
                              {"model.layers.{l}.mlp.experts.{e}.gate_proj", "expert_gate"},
                              {"model.layers.{l}.mlp.experts.{e}.up_proj", "expert_up"},
                              {"model.layers.{l}.mlp.experts.{e}.down_proj", "expert_down"}};

const Modules kPreNorms = {{"model.layers.{l}.input_layernorm", "attn_norm"},
                           {"model.layers.{l}.post_attention_layernorm", "ffn_norm"}};

const Modules kPostNorms = {{"model.layers.{l}.post_attention_layernorm", "attn_post_norm"},
                            {"model.layers.{l}.post_feedforward_layernorm", "ffn_post_norm"}};

const Modules kFourNorms = Modules{{"model.layers.{l}.input_layernorm", "attn_norm"},
                                   {"model.layers.{l}.pre_feedforward_layernorm", "ffn_norm"}} +
                           kPostNorms;

const Modules kGpt2 = {{"transformer.wte", "embed"},
                       {"transformer.wpe", "positions"},
                       {"transformer.h.{l}.ln_1", "attn_norm"},
                       {"transformer.h.{l}.attn.c_attn", "q k v", Layout::transposed},
                       {"transformer.h.{l}.attn.c_proj", "o", Layout::transposed},
                       {"transformer.h.{l}.ln_2", "ffn_norm"},
                       {"transformer.h.{l}.mlp.c_fc", "up", Layout::transposed},
                       {"transformer.h.{l}.mlp.c_proj", "down", Layout::transposed},
                       {"transformer.ln_f", "final_norm"},
                       {"lm_head", "head"}};

Names hugging_face(Modules modules, double norm_offset = 0) {
  return {.modules = std::move(modules),
          .norm_offset = norm_offset,
          .prefix = "model.",
          .ignored = {".rotary_emb.inv_freq"}};
}

Names hugging_face_gpt2() {
  return {.modules = kGpt2,
          .zero_biases = true,
          .prefix = "transformer.",
          .ignored = {".attn.bias", ".attn.masked_bias"}};
}

// ---- GGUF --------------------------------------------------------------------------------------

const Modules kGgufEnds = {
    {"token_embd", "embed"}, {"output_norm", "final_norm"}, {"output", "head"}};

const Modules kGgufAttention = {{"blk.{l}.attn_q", "q"},
                                {"blk.{l}.attn_k", "k"},
                                {"blk.{l}.attn_v", "v"},
                                {"blk.{l}.attn_output", "o"}};

const Modules kGgufQkNorm = {{"blk.{l}.attn_q_norm", "q_norm"}, {"blk.{l}.attn_k_norm", "k_norm"}};

const Modules kGgufFusedAttention = {{"blk.{l}.attn_qkv", "q k v"}, {"blk.{l}.attn_output", "o"}};

const Modules kGgufGated = {
    {"blk.{l}.ffn_gate", "gate"}, {"blk.{l}.ffn_up", "up"}, {"blk.{l}.ffn_down", "down"}};

const Modules kGgufExperts = {{"blk.{l}.ffn_gate_inp", "router"},
                              {"blk.{l}.ffn_gate_exps", "expert_gate", Layout::stacked},
                              {"blk.{l}.ffn_up_exps", "expert_up", Layout::stacked},
                              {"blk.{l}.ffn_down_exps", "expert_down", Layout::stacked}};

const Modules kGgufPreNorms = {{"blk.{l}.attn_norm", "attn_norm"},
                               {"blk.{l}.ffn_norm", "ffn_norm"}};

const Modules kGgufPostNorms = {{"blk.{l}.post_attention_norm", "attn_post_norm"},
                                {"blk.{l}.post_ffw_norm", "ffn_post_norm"}};

const Modules kGgufGpt2 =
    Modules{{"token_embd", "embed"},      {"position_embd", "positions"}, {"blk.{l}.ffn_up", "up"},
            {"blk.{l}.ffn_down", "down"}, {"output_norm", "final_norm"},  {"output", "head"}} +
    kGgufPreNorms + kGgufFusedAttention;

Names gguf(Modules modules, RopePairing pairing = RopePairing::halves, bool zero_biases = false) {
  return {
      .modules = std::move(modules),
      .pairing = pairing,
      .zero_biases = zero_biases,
      .ignored = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}};
}

std::vector<Family> rows() {
  const RopePairing neighbours = RopePairing::interleaved;
  const Modules llama = kEnds + kPreNorms + kAttention + kGated;
  const Modules gguf_llama = kGgufEnds + kGgufPreNorms + kGgufAttention + kGgufGated;
  const Modules qwen3 = llama + kQkNorm, gguf_qwen3 = gguf_llama + kGgufQkNorm;
  const Modules gemma2 = kEnds + kFourNorms + kAttention + kGated;
  const Modules gguf_gemma2 = gguf_llama + kGgufPostNorms;
  const Modules mixture = kEnds + kPreNorms + kAttention;
  const Modules gguf_mixture = kGgufEnds + kGgufPreNorms + kGgufAttention + kGgufExperts;
  return {
      {"gpt2", "GPT2LMHeadModel", "gpt2", "gpt2", hugging_face_gpt2(),
       gguf(kGgufGpt2, RopePairing::halves, true)},
      {"llama", "LlamaForCausalLM", "llama", "llama", hugging_face(llama),
       gguf(gguf_llama, neighbours)},
      {"mistral", "MistralForCausalLM", "mistral", "llama", hugging_face(llama),
       gguf(gguf_llama, neighbours)},
      {"qwen2", "Qwen2ForCausalLM", "qwen2", "qwen2", hugging_face(llama), gguf(gguf_llama)},
      {"qwen3", "Qwen3ForCausalLM", "qwen3", "qwen3", hugging_face(qwen3), gguf(gguf_qwen3)},
      {"phi3", "Phi3ForCausalLM", "phi3", "phi3",
       hugging_face(kEnds + kPreNorms + kFusedAttention + kFusedGated),
       gguf(kGgufEnds + kGgufPreNorms + kGgufFusedAttention +
            Modules{{"blk.{l}.ffn_up", "gate up"}, {"blk.{l}.ffn_down", "down"}})},
      {"gemma", "GemmaForCausalLM", "gemma", "gemma", hugging_face(llama, -1), gguf(gguf_llama)},
      {"gemma2", "Gemma2ForCausalLM", "gemma2", "gemma2", hugging_face(gemma2, -1),
       gguf(gguf_gemma2)},
      {"gemma3_text", "Gemma3ForCausalLM", "gemma3", "gemma3", hugging_face(gemma2 + kQkNorm, -1),
       gguf(gguf_gemma2 + kGgufQkNorm)},
      {"olmo2", "Olmo2ForCausalLM", "olmo2", "olmo2",
       hugging_face(kEnds + kPostNorms + kAttention + kQkNorm + kGated),
       gguf(kGgufEnds + kGgufPostNorms + kGgufAttention + kGgufQkNorm + kGgufGated)},
      {"mixtral", "MixtralForCausalLM", "mixtral", "llama", hugging_face(mixture + kMixtralExperts),
       gguf(gguf_mixture, neighbours)},
      {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe",
       hugging_face(mixture + kQkNorm + kQwenExperts), gguf(gguf_mixture + kGgufQkNorm)},
  };
}

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> table = rows();
  return table;
}

const Family& family_of(const std::string& model_type) {
  std::string known;
  for (const Family& family : families()) {
    if (family.model_type == model_type) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  }
  fail("the model type \"", model_type, "\" is not known; known are ", known);
}

}  // namespace olm::nn::hub
