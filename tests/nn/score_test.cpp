// The cost of texts against the definition: each token from what its window has before it.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/decoder.h>
#include <olm/nn/training.h>

using namespace olm;
using namespace olm::nn;

namespace {

constexpr int64_t kVocab = 13, kContext = 8;

const Ref<BlockModule>& model() {
  static const Ref<BlockModule> instance = [] {
    const DecoderConfig config{.family = "llama",
                               .vocab_size = kVocab,
                               .embed_dim = 16,
                               .num_layers = 2,
                               .num_heads = 2,
                               .max_seq_len = kContext};
    auto made = DecoderModel(config);
    init(*made, {.seed = 3});
    for (Tensor& p : made->parameters()) {  // far from uniform predictions
      NoGrad guard;
      for (int64_t i = 0; i < p.numel(); ++i) p.mutable_data<float>()[i] *= 4;
    }
    return made;
  }();
  return instance;
}

TokenDataset text_of(int64_t size, uint64_t seed) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < size; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    ids.push_back(int32_t((seed >> 33) % kVocab));
  }
  return TokenDataset::from_ids(ids, kVocab);
}

double cost_of(const std::vector<int64_t>& before, int64_t id) {
  NoGrad guard;
  Context ctx;
  const Tensor y = model()->forward(from_host(before, {1, int64_t(before.size())}), ctx);
  const auto row = to_host<double>(raw::select(y, 1, int64_t(before.size()) - 1));
  double sum = 0;
  for (const double logit : row) sum += std::exp(logit);
  return std::log(sum) - row[size_t(id)];
}

/// A token at a time.
double by_definition(const TokenDataset& text, const ScoreOptions& o) {
  std::vector<int64_t> all;
  if (o.start) all.push_back(*o.start);
  for (int64_t i = 0; i < text.size(); ++i) text.read(i, 1, &all.emplace_back());
  double nats = o.start || text.size() == 0 ? 0 : std::log(double(kVocab));
  const int64_t stride = o.stride > 0 ? o.stride : o.context;
  for (int64_t i = 1; i < int64_t(all.size()); ++i) {
    int64_t begin = 0;  // of the first window that reaches this target
    while (begin + o.context < i) begin += stride;
    nats += cost_of({all.begin() + begin, all.begin() + i}, all[size_t(i)]);
  }
  return nats;
}

}  // namespace

TEST_SUITE("nn/score") {
  TEST_CASE("every token is scored once, whatever the windows") {
    std::vector<TokenDataset> texts;
    for (const int64_t size : {1, 2, 7, 8, 9, 17, 40})
      texts.push_back(text_of(size, uint64_t(size)));
    int64_t tokens = 0;
    for (const TokenDataset& text : texts) tokens += text.size();
    for (const auto& start : {std::optional<int64_t>(), std::optional<int64_t>(5)})
      for (const int64_t context : {1, 5, 8})
        for (const int64_t stride : {0, 1, 3, 5}) {
          if (stride > context) continue;
          const ScoreOptions o{.context = context, .stride = stride, .start = start};
          INFO("start ", start.value_or(-1), " context ", context, " stride ", stride);
          double wanted = 0;
          for (const TokenDataset& text : texts) {
            const double one = by_definition(text, o);
            CHECK(score(*model(), std::span(&text, 1), o).nats ==
                  doctest::Approx(one).epsilon(1e-5));
            wanted += one;
          }
          const ScoreReport together = score(*model(), texts, o);
          CHECK(together.tokens == tokens);
          CHECK(together.nats == doctest::Approx(wanted).epsilon(1e-5));
        }
  }

  TEST_CASE("windows without overlap are those of evaluate()") {
    const TokenDataset text = text_of(37, 1);
    const EvalReport report = evaluate(*model(), text, kContext);
    const ScoreReport costs = score(*model(), std::span(&text, 1), {.context = kContext});
    CHECK(costs.nats - std::log(double(kVocab)) ==
          doctest::Approx(report.loss * double(report.tokens)).epsilon(1e-6));
  }

  TEST_CASE("nothing costs nothing, and windows that leave gaps are refused") {
    const TokenDataset none = TokenDataset::from_ids({}, kVocab);
    CHECK(score(*model(), std::span(&none, 1), {.context = 8}).nats == 0);
    CHECK(score(*model(), {}, {.context = 8}).tokens == 0);
    CHECK_THROWS_AS(score(*model(), {}, {.context = 8, .stride = 9}), Error);
    CHECK_THROWS_AS(score(*model(), {}, {}), Error);
  }
}
