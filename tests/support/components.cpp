#include <tests/support/components.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <map>

#include <olm/autograd/ops.h>
#include <olm/engine/raw.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/moe.h>
#include <olm/nn/registry.h>
#include <tests/support/layer_parity.h>
#include <tests/support/sequence.h>

namespace olm::test {
namespace {

using namespace nn;

/// The names of the guides "Building Blocks" and "The Block System", in their order.
const std::vector<std::string> kNames = {
    // clang-format off
    "Embedding", "AbsolutePositionalEmbedding", "SinusoidalPositionalEmbedding",
    "RotaryPositionalEmbedding", "ALiBiPositionalBias", "PartialRotaryPositionalEmbedding",
    "ScaledRotaryPositionalEmbedding", "AttentionBase", "AttentionwithRoPEBase",
    "MultiHeadAttention", "MultiHeadAttentionwithRoPE", "FlashAttention",
    "FlashAttentionwithRoPE", "GroupedQueryAttention", "MultiHeadAttentionwithALiBi", "LayerNorm",
    "RMSNorm", "ClassicFFN", "SwiGLUFFN", "GeGLUFFN", "ClassicMoEFFN", "SwiGLUMoEFFN",
    "GeGLUMoEFFN", "MoEFeedForwardBase", "MoERouter", "ActivationBase", "ReLU", "LeakyReLU",
    "ELU", "SELU", "PReLU", "GELU", "SiLU", "Mish", "Softplus", "Tanh", "Sigmoid", "Softmax",
    "Identity", "SwiGLU", "GeGLU", "ReGLU", "LiGLU", "GLU", "Block", "OutputHead",
    "BaseCombinator", "Residual", "Repeat", "Parallel", "TransformerBlock"
    // clang-format on
};

constexpr int64_t kBatch = 2, kTime = 6, kVocab = 11;

/// How a component is run: on vectors [B,T,width…], or on ids where there is no width.
struct Component {
  std::string name;
  Shape width = {};
  std::function<Ref<Module>()> make = {};
  std::string fixture = {};                         ///< a layer in `file`; none if empty
  std::function<Ref<Module>()> fixture_layer = {};  ///< what that is; `make` if empty
  std::string file = "layers.safetensors";
};

/// x + block(x), to stand for combinators of one's own.
class Added final : public BaseCombinator {
 public:
  explicit Added(Ref<Module> block) : block(this, "block", std::move(block)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return x + block(x, ctx); }
  std::string type_name() const override { return "Added"; }
  Child<> block;
};

/// tanh(x), to stand for activations of one's own.
class OwnTanh final : public ActivationBase {
 public:
  Tensor forward(const Tensor& x, Context&) override { return tanh(x); }
  std::string type_name() const override { return "OwnTanh"; }
};

const AttentionOptions kCausal{.embed_dim = 12, .num_heads = 3, .causal = true};
const AttentionOptions kRotary{.embed_dim = 12, .num_heads = 3, .max_seq_len = 8, .causal = true};

Component activation(const char* component, const char* name) {
  return {component,
          {8},
          [name] { return activations().get(name)(); },
          std::string("activation.") + name};
}
Ref<Module> layer() { return TransformerBlock(8, 2, 6); }
Ref<Module> network() { return Block({LayerNorm(8), SwiGLUFFN(8)}); }
Ref<Module> mixture() {
  return MoEFeedForward({.embed_dim = 6, .num_experts = 4},
                        [] { return ClassicFFN(6, {.hidden_dim = 5}); });
}
/// TransformerBlock, whose additions are a combinator of one's own.
Ref<Module> added_layer() {
  return Block(
      {make<Added>(Block({LayerNorm(8), FlashAttentionwithRoPE(8, 2, 6, {.causal = true})})),
       make<Added>(network())});
}
Ref<Module> branches() { return Parallel({network(), Block({RMSNorm(8), GeGLUFFN(8)})}); }
Ref<Module> small_lm() {
  return LM({.vocab_size = 11, .embed_dim = 8, .num_heads = 2, .num_layers = 2, .max_seq_len = 6});
}

std::vector<Component> embeddings() {
  return {
      {"Embedding", {}, [] { return Embedding(kVocab, 6); }, "Embedding"},
      {"AbsolutePositionalEmbedding",
       {6},
       [] { return AbsolutePositionalEmbedding(7, 6); },
       "AbsolutePositionalEmbedding"},
      {"SinusoidalPositionalEmbedding",
       {7},
       [] { return SinusoidalPositionalEmbedding(7, {.max_seq_len = 9}); },
       "SinusoidalPositionalEmbedding"},
      {"RotaryPositionalEmbedding",
       {3, 6},
       [] { return RotaryPositionalEmbedding(6, 16); },
       "RotaryPositionalEmbedding"},
      {"PartialRotaryPositionalEmbedding",
       {3, 10},
       [] { return PartialRotaryPositionalEmbedding(10, {.max_seq_len = 8}); },
       "PartialRotaryPositionalEmbedding"},
      {"ALiBiPositionalBias",
       {12},
       [] { return MultiHeadAttentionwithALiBi(12, 4); },
       "MultiHeadAttentionwithALiBi",
       {},
       "attention_layers.safetensors"},
      {"ScaledRotaryPositionalEmbedding",
       {3, 12},
       [] {
         return ScaledRotaryPositionalEmbedding(12, 96, 10000,
                                                {.scaling_type = "linear", .scaling_factor = 4});
       },
       "olm.linear",
       {},
       "positions.safetensors"},
  };
}

std::vector<Component> attention_layers() {
  return {
      {"AttentionBase",
       {12},
       [] { return make<AttentionBase>(kCausal); },
       "MultiHeadAttention.causal"},
      {"AttentionwithRoPEBase",
       {12},
       [] { return make<AttentionwithRoPEBase>(kRotary); },
       "MultiHeadAttentionwithRoPE"},
      {"MultiHeadAttention",
       {12},
       [] { return MultiHeadAttention(kCausal); },
       "MultiHeadAttention.causal"},
      {"MultiHeadAttentionwithRoPE",
       {12},
       [] { return MultiHeadAttentionwithRoPE(kRotary); },
       "MultiHeadAttentionwithRoPE"},
      {"FlashAttention", {12}, [] { return FlashAttention(kCausal); }, "FlashAttention.mask"},
      {"FlashAttentionwithRoPE",
       {12},
       [] {
         return FlashAttentionwithRoPE(12, 3, 8,
                                       {.causal = true, .bias = false, .rope_theta = 500});
       },
       "FlashAttentionwithRoPE"},
      {"GroupedQueryAttention",
       {12},
       [] {
         return GroupedQueryAttention(
             {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 2, .max_seq_len = 8});
       },
       "GroupedQueryAttention"},
      {"MultiHeadAttentionwithALiBi",
       {12},
       [] { return MultiHeadAttentionwithALiBi(12, 4); },
       "MultiHeadAttentionwithALiBi",
       {},
       "attention_layers.safetensors"},
  };
}

std::vector<Component> norms_and_networks() {
  return {
      {"LayerNorm", {6}, [] { return LayerNorm(6); }, "LayerNorm"},
      {"RMSNorm", {6}, [] { return RMSNorm(6); }, "RMSNorm"},
      {"ClassicFFN", {6}, [] { return ClassicFFN(6); }, "ClassicFFN"},
      {"SwiGLUFFN", {6}, [] { return SwiGLUFFN(6); }, "SwiGLUFFN"},
      {"GeGLUFFN", {6}, [] { return GeGLUFFN(6); }, "GeGLUFFN"},
      {"ClassicMoEFFN",
       {6},
       [] { return ClassicMoEFFN(6, {.num_experts = 4, .hidden_dim = 5}); },
       "ClassicMoEFFN",
       {},
       "moe.safetensors"},
      {"SwiGLUMoEFFN",
       {6},
       [] { return SwiGLUMoEFFN(6, {.num_experts = 4, .hidden_dim = 5}); },
       "SwiGLUMoEFFN",
       {},
       "moe.safetensors"},
      {"GeGLUMoEFFN",
       {6},
       [] { return GeGLUMoEFFN(6, {.num_experts = 4, .hidden_dim = 5}); },
       "GeGLUMoEFFN",
       {},
       "moe.safetensors"},
      {"MoEFeedForwardBase", {6}, mixture, "ClassicMoEFFN", mixture, "moe.safetensors"},
      {"MoERouter", {6}, [] { return MoERouter(6, 5); }, "MoERouter", {}, "moe.safetensors"},
  };
}

std::vector<Component> activation_layers() {
  return {
      {"ActivationBase", {8}, [] { return make<OwnTanh>(); }, "activation.tanh"},
      activation("ReLU", "relu"),
      activation("LeakyReLU", "leaky_relu"),
      activation("ELU", "elu"),
      activation("SELU", "selu"),
      activation("PReLU", "prelu"),
      activation("GELU", "gelu"),
      activation("SiLU", "silu"),
      activation("Mish", "mish"),
      activation("Softplus", "softplus"),
      activation("Tanh", "tanh"),
      activation("Sigmoid", "sigmoid"),
      activation("Softmax", "softmax"),
      activation("Identity", "identity"),
      activation("SwiGLU", "swiglu"),
      activation("GeGLU", "geglu"),
      activation("ReGLU", "reglu"),
      activation("LiGLU", "liglu"),
      activation("GLU", "glu"),
  };
}

std::vector<Component> structures() {
  return {
      {"Block", {8}, network, "TransformerBlock", layer},
      {"BaseCombinator",
       {8},
       [] { return make<Added>(network()); },
       "TransformerBlock",
       added_layer},
      {"Residual", {8}, [] { return Residual(network()); }, "TransformerBlock", layer},
      {"Repeat", {8}, [] { return Repeat(layer, 2); }, "LM", small_lm},
      {"Parallel", {8}, branches, "Parallel", {}, "structures.safetensors"},
      {"TransformerBlock", {8}, layer, "TransformerBlock"},
      {"OutputHead", {6}, [] { return OutputHead(6, kVocab); }, "OutputHead"},
  };
}

/// One row for each component that there is.
std::vector<Component> components() {
  std::vector<Component> all;
  for (const auto& part :
       {embeddings(), attention_layers(), norms_and_networks(), activation_layers(), structures()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

Tensor input_of(const Component& c) {
  Generator rng(7);
  if (c.width.rank() == 0) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < kBatch * kTime; ++i) ids.push_back(rng.below(kVocab));
    return from_host(ids, {kBatch, kTime});
  }
  if (c.width.rank() == 1) return randn({kBatch, kTime, c.width[0]}, rng);
  return randn({kBatch, kTime, c.width[0], c.width[1]}, rng);
}

Ref<Module> filled(const Component& c) {
  const Ref<Module> module = c.make();
  init(*module, {.seed = 3});
  return module;
}

double error_between(const Tensor& got, const Tensor& wanted) {
  const std::vector<double> a = to_host<double>(got), b = to_host<double>(wanted);
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / std::max(size, 1e-12));
}

Tensor in_dtype(const Component& c, DType dtype) {
  const NoGrad guard;
  const Ref<Module> module = filled(c);
  if (dtype == f64) module->to(f64);
  const Tensor x = input_of(c);
  Context ctx{.dtype = dtype};
  return module->forward(is_float(x.dtype()) ? raw::cast(x, dtype) : x, ctx);
}

/// As exact as f32 is, or bf16; the result is of that dtype.
bool computes_in(const Component& c, DType dtype) {
  const Tensor y = in_dtype(c, dtype);
  return y.dtype() == dtype && error_between(y, in_dtype(c, f64)) < (dtype == f32 ? 1e-5 : 0.05);
}

/// Every gradient there should be is there and finite.
bool goes_back(const Component& c) {
  const Ref<Module> module = filled(c);
  const Tensor x = input_of(c);
  if (is_float(x.dtype())) set_requires_grad(x);
  Context ctx;
  const Tensor y = module->forward(x, ctx);
  Generator rng(9);
  backward(y, {.gradient = randn(y.shape(), rng)});
  Tensors wanted = module->parameters();
  if (is_float(x.dtype())) wanted.push_back(x);
  for (const Tensor& t : wanted) {
    if (!grad(t).defined()) return false;
    for (const double g : to_host<double>(grad(t)))
      if (!std::isfinite(g)) return false;
  }
  return !wanted.empty();
}

/// Pieces with a cache give what the whole gives.
bool goes_in_pieces(const Component& c) {
  const NoGrad guard;
  const Ref<Module> module = filled(c);
  const Tensor x = input_of(c), whole = (*module)(x);
  KVCache cache(kTime);
  Context ctx{.cache = &cache};
  int64_t begin = 0;
  for (const int64_t length : {3, 1, 2}) {
    cache.begin();
    const Tensor piece = module->forward(tokens(x, begin, begin + length), ctx);
    if (error_between(piece, tokens(whole, begin, begin + length)) > 1e-5) return false;
    cache.advance(length);
    begin += length;
  }
  return true;
}

std::string answer(const std::function<bool()>& question) {
  try {
    return question() ? "yes" : "no";
  } catch (const Error&) {
    return "no";
  }
}

void compare(const Component& c, ComponentFacts& facts) {
  facts.fixture = "none";
  if (c.fixture.empty()) return;
  const Ref<Module> compared = c.fixture_layer ? c.fixture_layer() : c.make();
  facts.fixture_error = layer_parity_error(c.fixture, *compared, c.file);
  char text[32];
  std::snprintf(text, sizeof text, "%.0e", facts.fixture_error);
  facts.fixture = facts.fixture_error == 0 ? "0" : text;
  if (!c.fixture.starts_with(c.name) && !c.fixture.starts_with("activation."))
    facts.fixture += " (in " + c.fixture + ")";
}

}  // namespace

std::vector<ComponentFacts> run_components() {
  std::map<std::string, Component> known;
  for (Component& c : components()) known.emplace(c.name, c);
  std::vector<ComponentFacts> result;
  for (const std::string& name : kNames) {
    const auto found = known.find(name);
    if (found == known.end()) {
      result.push_back({name, "no", "no", "no", "no", "no", "none"});
      continue;
    }
    const Component& c = found->second;
    ComponentFacts facts{.name = name};
    facts.forward = answer([&] { return in_dtype(c, f32).defined(); });
    facts.backward = answer([&] { return goes_back(c); });
    facts.cache = answer([&] { return goes_in_pieces(c); });
    facts.f32 = answer([&] { return computes_in(c, f32); });
    facts.bf16 = answer([&] { return computes_in(c, bf16); });
    compare(c, facts);
    result.push_back(facts);
  }
  return result;
}

std::string components_page(const std::vector<ComponentFacts>& facts) {
  std::string out =
      "# Components\n\n"
      "The components of OpenLanguageModel's guides in their order, each run by the tests; made "
      "by\n"
      "`cmake --build build/release --target olm_components`.\n\n"
      "- forward: it runs. backward: its input and every parameter get a finite gradient.\n"
      "- cache: a sequence in pieces, with a key-value cache, gives what the whole gives.\n"
      "- f32, bf16: the result has that dtype and agrees with f64 to 1e-5, or 5e-2.\n"
      "- fixture: the largest relative L2 error of results and gradients against "
      "OpenLanguageModel, of the\n  component itself or of a layer made of it; none where there is "
      "no fixture.\n\n"
      "| component | forward | backward | cache | f32 | bf16 | fixture |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const ComponentFacts& f : facts)
    out += "| `" + f.name + "` | " + f.forward + " | " + f.backward + " | " + f.cache + " | " +
           f.f32 + " | " + f.bf16 + " | " + f.fixture + " |\n";
  return out;
}

}  // namespace olm::test
