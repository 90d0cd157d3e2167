// The olm program with a layer and a model family of one's own.
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
  families().add(MineConfig::family, ModelConfig(MineConfig(), mine_model, init_mine));
  return tools::run(argc, argv);
}
