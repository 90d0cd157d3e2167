// The diagram of a model.
#include <doctest/doctest.h>

#include <olm/nn/feedforward.h>
#include <olm/nn/linear.h>
#include <olm/nn/models.h>

using namespace olm;
using namespace olm::nn;

namespace {

/// Lines without the column of counts, and those counts.
std::pair<std::string, std::vector<std::string>> columns(const std::string& text) {
  std::string diagram;
  std::vector<std::string> counts;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    // Counts are at the right, behind at least two spaces.
    const size_t gap = line.rfind("  ");
    const bool counted = gap != std::string::npos && gap + 2 < line.size() &&
                         std::isdigit(uint8_t(line[gap + 2])) && std::isdigit(uint8_t(line.back()));
    if (counted) {
      counts.push_back(line.substr(gap + 2));
      line.erase(line.find_last_not_of(' ', gap) + 1);
    }
    diagram += line + "\n";
    at = end + 1;
  }
  return {diagram, counts};
}

}  // namespace

TEST_SUITE("nn/summary") {
  TEST_CASE("a model is drawn as a tree, equal layers once, options where they are not usual") {
    const auto model = Llama2Model({.vocab_size = 11,
                                    .embed_dim = 8,
                                    .intermediate_size = 20,
                                    .num_layers = 12,
                                    .num_heads = 4,
                                    .max_seq_len = 6});
    const auto [diagram, counts] = columns(summary(*model));
    CHECK(diagram ==
          R"(Block
├─ blocks.0: Embedding(vocab_size=11, embedding_dim=8)  embedding.weight [11,8]
├─ blocks.1: Repeat
│  └─ stack.0..11 × 12: Block
│     ├─ blocks.0: Residual
│     │  └─ block: Block
│     │     ├─ blocks.0: RMSNorm(dim=8)  weight [8]
│     │     └─ blocks.1: FlashAttentionwithRoPE(embed_dim=8, num_heads=4, max_seq_len=6, causal=true, bias=false)
│     │        ├─ q_proj: Linear  weight [8,8]
│     │        ├─ k_proj: Linear  weight [8,8]
│     │        ├─ v_proj: Linear  weight [8,8]
│     │        └─ out_proj: Linear  weight [8,8]
│     └─ blocks.1: Residual
│        └─ block: Block
│           ├─ blocks.0: RMSNorm(dim=8)  weight [8]
│           └─ blocks.1: SwiGLUFFN(embed_dim=8, hidden_dim=20, bias=false)
│              ├─ up_proj: Linear  weight [40,8]
│              ├─ act: SwiGLU
│              └─ down_proj: Linear  weight [8,20]
├─ blocks.2: RMSNorm(dim=8)  weight [8]
└─ blocks.3: OutputHead(embed_dim=8, vocab_size=11, use_norm=false)
   ├─ blocks.0: Identity
   └─ blocks.1: Linear  weight [11,8] tied to blocks.0.embedding.weight
total 9,120 parameters, 9,120 trained
)");
    CHECK(counts == std::vector<std::string>{"9,120", "88", "9,024", "12 × 752", "264", "264", "8",
                                             "256", "64", "64", "64", "64", "488", "488", "8",
                                             "480", "320", "160", "8"});
  }

  TEST_CASE("what differs is not folded: another option, a frozen or tied weight, a replacement") {
    const auto linear = [] { return Linear(2, 2); };
    const auto model = Block({Repeat(linear, 6), Parallel({linear(), linear()}, merge::mean())});
    model->freeze("blocks.0.stack.2");
    model->parameter("blocks.0.stack.4.bias") = model->parameter("blocks.0.stack.0.bias");
    model->replace("blocks.0.stack.5", Linear(2, 2, {.bias = false}));
    const auto [diagram, counts] = columns(summary(*model));
    CHECK(diagram ==
          R"(Block
├─ blocks.0: Repeat
│  ├─ stack.0..1 × 2: Linear(in_features=2, out_features=2)  weight [2,2], bias [2]
│  ├─ stack.2: Linear(in_features=2, out_features=2)  weight [2,2] (frozen), bias [2] (frozen)
│  ├─ stack.3: Linear(in_features=2, out_features=2)  weight [2,2], bias [2]
│  ├─ stack.4: Linear(in_features=2, out_features=2)  weight [2,2], bias [2] tied to blocks.0.stack.0.bias
│  └─ stack.5: Linear(in_features=2, out_features=2, bias=false)  weight [2,2]
└─ blocks.1: Parallel(merge="mean")
   └─ blocks.0..1 × 2: Linear(in_features=2, out_features=2)  weight [2,2], bias [2]
total 44 parameters, 38 trained
)");
  }

  TEST_CASE("a child that follows from its owner's options shows none until it is replaced") {
    const auto ffn = ClassicFFN(4, {.hidden_dim = 8});
    CHECK(summary(*ffn).find("up_proj: Linear  weight [8,4]") != std::string::npos);
    ffn->replace("up_proj", Linear(4, 8, {.bias = false}));
    CHECK(
        summary(*ffn).find("up_proj: Linear(in_features=4, out_features=8, bias=false)  weight") !=
        std::string::npos);
  }
}
