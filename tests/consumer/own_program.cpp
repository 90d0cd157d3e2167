// The olm program with one of each kind of one's own: layer, activation, norm, attention,
// positions, feed-forward layer, model family and model.
#include <olm/tools/program.h>

namespace {

using namespace olm;
using namespace olm::nn;

/// x + sigmoid(gate) · block(x).
class GatedResidualModule final : public BaseCombinator {
 public:
  explicit GatedResidualModule(Ref<Module> b) : block(this, "block", b) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    return x + cast(sigmoid(gate), x.dtype()) * block(x, ctx);
  }
  std::string type_name() const override { return "GatedResidual"; }
  Child<> block;
  Parameter gate{this, "gate", {1}, init::zeros};
};

/// x + sin²(x).
class SnakeModule final : public ActivationBase {
 public:
  Tensor forward(const Tensor& x, Context&) override { return x + square(sin(x)); }
  std::string type_name() const override { return "snake"; }
};

struct WidthOptions {
  int64_t dim = 0;
  void fields(auto& v) { v("dim", dim); }
};
/// gain · x / (1 + |x|).
class SoftSignNorm final : public Layer<WidthOptions> {
 public:
  explicit SoftSignNorm(WidthOptions o) : Layer(o) {}
  Tensor forward(const Tensor& x, Context&) override {
    return cast(gain, x.dtype()) * x / (abs(x) + 1);
  }
  std::string type_name() const override { return "soft_sign"; }
  Parameter gain{this, "gain", {options.dim}, init::ones};
};

/// Attention by sigmoids, which do not add up to 1.
class SigmoidAttentionModule final : public AttentionwithRoPEBase {
 public:
  using AttentionwithRoPEBase::AttentionwithRoPEBase;

 protected:
  Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                           Context&) override {
    const Tensor scores = matmul(q, transpose(k, -2, -1)) * scale();
    return matmul(sigmoid(mask.defined() ? scores + mask : scores), v);
  }
};

struct PlacesOptions {
  int64_t embed_dim = 0, max_seq_len = 0;
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("max_seq_len", max_seq_len);
  }
};
/// x · gain + a learned vector for each position.
class GainedPositions final : public Layer<PlacesOptions> {
 public:
  explicit GainedPositions(PlacesOptions o)
      : Layer(o), table(this, "table", AbsolutePositionalEmbedding(o.max_seq_len, o.embed_dim)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    return table(x * cast(gain, x.dtype()), ctx);
  }
  std::string type_name() const override { return "gained"; }
  Child<> table;
  Parameter gain{this, "gain", {1}, init::ones};
};

struct SnakeFFNOptions {
  int64_t embed_dim = 0;
  std::optional<int64_t> hidden_dim = {};
  double dropout = 0;
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
  }
};
/// down(snake(up(x))).
class SnakeFFN final : public Layer<SnakeFFNOptions> {
 public:
  explicit SnakeFFN(SnakeFFNOptions o)
      : Layer(o),
        up_proj(this, "up_proj", Linear(o.embed_dim, width(o))),
        act(this, "act", activations().get("snake")()),
        down_proj(this, "down_proj", Linear(width(o), o.embed_dim)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    return down_proj(act(up_proj(x, ctx), ctx), ctx);
  }
  std::string type_name() const override { return "SnakeFFN"; }
  Child<> up_proj, act, down_proj;

 private:
  static int64_t width(const SnakeFFNOptions& o) { return o.hidden_dim.value_or(4 * o.embed_dim); }
};

struct MineConfig {
  static constexpr const char* family = "mine";
  int64_t vocab_size = 257, embed_dim = 16, num_heads = 2, max_seq_len = 16;
  std::string feed_forward = "ClassicFFN";
  void fields(auto& v) {
    v("vocab_size", vocab_size, {.min = 1});
    v("embed_dim", embed_dim, {.min = 1, .help = "width"});
    v("num_heads", num_heads, {.min = 1, .help = "attention heads"});
    v("max_seq_len", max_seq_len, {.min = 2, .help = "context in tokens"});
    v("feed_forward", feed_forward,
      {.one_of = feed_forwards().names(), .help = "class of the feed-forward layers"});
  }
};

Ref<BlockModule> mine_model(const MineConfig& c) {
  Json options = Json::object();
  options["embed_dim"] = c.embed_dim;
  const Ref<Module> attention =
      FlashAttentionwithRoPE(c.embed_dim, c.num_heads, c.max_seq_len, {.causal = true});
  return Block({Embedding(c.vocab_size, c.embed_dim),
                make<GatedResidualModule>(Block({RMSNorm(c.embed_dim), attention})),
                make<GatedResidualModule>(
                    Block({RMSNorm(c.embed_dim), feed_forwards().get(c.feed_forward)(options)})),
                OutputHead(c.embed_dim, c.vocab_size)});
}

void init_mine(Module& model, const MineConfig&, const InitOptions& options) {
  init_gpt2(model, 1, options);
}

}  // namespace

int main(int argc, char** argv) {
  layers().add("GatedResidual", [](const Json&, DescribedChildren children) -> Ref<Module> {
    return make<GatedResidualModule>(children.at(0).second);
  });
  activations().add("snake", [] { return make<SnakeModule>(); });
  norms().add("soft_sign", layer_maker<SoftSignNorm>("soft_sign"));
  attentions().add("SigmoidAttention", {.name = "SigmoidAttention",
                                        .defaults = {.causal = true, .bias = false},
                                        .make = make_attention<SigmoidAttentionModule>});
  positions().add("gained", layer_maker<GainedPositions>("gained"));
  feed_forwards().add("SnakeFFN", layer_maker<SnakeFFN>("SnakeFFN"));
  families().add(MineConfig::family, ModelConfig(MineConfig(), mine_model, init_mine));
  add_model("Mine_16", MineConfig{.feed_forward = "SwiGLUFFN"});
  return tools::run(argc, argv);
}
