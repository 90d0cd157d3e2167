#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include <olm/engine/safetensors.h>
#include <olm/nn/generate.h>
#include <olm/nn/models.h>

#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>

using namespace olm;
using namespace olm::nn;

namespace {

Ref<Module> small_model(bool llama) {
  Ref<Module> model;
  if (llama)
    model = Llama2Model({.vocab_size = 11,
                         .embed_dim = 16,
                         .intermediate_size = 24,
                         .num_layers = 2,
                         .num_heads = 4,
                         .num_kv_heads = 2,
                         .max_seq_len = 24});
  else
    model = GPT2Model({.vocab_size = 11,
                       .embed_dim = 16,
                       .num_layers = 2,
                       .num_heads = 4,
                       .max_seq_len = 24,
                       .dropout = 0.5});
  init_gpt2(*model, 2, {.seed = 3});
  return model;
}

const std::vector<int32_t> kPrompt = {1, 5, 9};

/// How often each id comes up in many draws.
std::map<int32_t, double> shares(const std::vector<float>& logits, const GenerateOptions& o) {
  Generator rng(1);
  std::map<int32_t, double> result;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) result[sample_token(logits, o, rng)] += 1.0 / kDraws;
  return result;
}

}  // namespace

TEST_SUITE("nn/generate") {
  TEST_CASE("with and without a cache the tokens are the same, beyond the context too") {
    for (const bool llama : {false, true}) {
      const Ref<Module> model = small_model(llama);
      for (const double temperature : {0.0, 1.0}) {
        GenerateOptions o{.tokens = 60, .temperature = temperature, .seed = 7, .context = 24};
        const std::vector<int32_t> cached = generate(model, kPrompt, o);
        o.use_cache = false;
        CHECK(cached.size() == 60);
        CHECK(cached == generate(model, kPrompt, o));
      }
    }
  }

  TEST_CASE("greedy tokens are the likeliest of a whole forward pass") {
    const Ref<Module> model = small_model(true);
    std::vector<int32_t> all = kPrompt;
    for (const int32_t id : generate(model, kPrompt, {.tokens = 10, .temperature = 0})) {
      const std::vector<int64_t> ids(all.begin(), all.end());
      const std::vector<float> logits =
          to_host<float>(model(from_host(ids, {1, int64_t(ids.size())})));
      const auto last = logits.end() - 11;
      CHECK(id == int32_t(std::max_element(last, logits.end()) - last));
      all.push_back(id);
    }
  }

  TEST_CASE("a long prompt is cut to the context") {
    const Ref<Module> model = small_model(false);
    const std::vector<int32_t> longer(100, 4), shorter(24, 4);
    const GenerateOptions o{.tokens = 5, .context = 24};
    CHECK(generate(model, longer, o) == generate(model, shorter, o));
    CHECK(context_of(*model) == 24);
  }

  TEST_CASE("seeds, stop ids and the callback decide") {
    const Ref<Module> model = small_model(false);
    const GenerateOptions o{.tokens = 20, .seed = 1, .context = 24};
    const std::vector<int32_t> all = generate(model, kPrompt, o);
    GenerateOptions other = o;
    other.seed = 2;
    CHECK(generate(model, kPrompt, o) == all);
    CHECK(generate(model, kPrompt, other) != all);
    GenerateOptions stopping = o;
    stopping.stop = {all[4]};
    const std::vector<int32_t> stopped = generate(model, kPrompt, stopping);
    CHECK(stopped.size() <= 4);
    CHECK(std::equal(stopped.begin(), stopped.end(), all.begin()));
    std::vector<int32_t> heard;
    const std::vector<int32_t> three = generate(model, kPrompt, o, [&](int32_t id) {
      heard.push_back(id);
      return heard.size() < 3;
    });
    CHECK(heard == three);
    CHECK(three.size() == 3);
  }

  TEST_CASE("draws follow the softmax, top-k and top-p") {
    const std::vector<float> logits = {std::log(0.5f), std::log(0.1f), std::log(0.3f),
                                       std::log(0.1f)};
    auto all = shares(logits, {});
    CHECK(all[0] == doctest::Approx(0.5).epsilon(0.03));
    CHECK(all[2] == doctest::Approx(0.3).epsilon(0.03));
    CHECK(all[1] == doctest::Approx(0.1).epsilon(0.1));
    auto two = shares(logits, {.top_k = 2});
    CHECK(two.size() == 2);
    CHECK(two[0] == doctest::Approx(0.5 / 0.8).epsilon(0.03));
    CHECK(shares(logits, {.top_p = 0.5}).size() == 1);
    CHECK(shares(logits, {.top_p = 0.6}).size() == 2);
    CHECK(shares(logits, {.top_p = 0.85}).size() == 3);
    auto sharp = shares(logits, {.temperature = 0.5});
    CHECK(sharp[0] == doctest::Approx(0.25 / 0.36).epsilon(0.03));
    // What is excluded by -infinity never comes.
    CHECK(shares({-INFINITY, 0.0f, -INFINITY}, {.temperature = 100}).size() == 1);
  }

  TEST_CASE("the distribution is that of Hugging Face's logits processors") {
    const SafetensorsFile file =
        SafetensorsFile::open(std::string(OLM_FIXTURES) + "/sampling.safetensors");
    int cases = 0;
    for (const std::string& key : file.names()) {
      if (!key.ends_with("/logits")) continue;
      const std::string name = key.substr(0, key.size() - 7);
      INFO(name);
      std::vector<float> logits = to_host<float>(file.tensor(key));
      const auto ids = to_host<int32_t>(raw::cast(file.tensor(name + "/ids"), i32));
      const auto o = to_host<double>(file.tensor(name + "/options"));
      penalize_repetition(logits, ids, o[4]);
      const std::vector<Candidate> got = candidates(
          logits, {.temperature = o[0], .top_k = int64_t(o[1]), .top_p = o[2], .min_p = o[3]});
      std::vector<double> p(logits.size(), 0);
      for (const Candidate& c : got) p[size_t(c.id)] = c.probability;
      const auto wanted = to_host<double>(file.tensor(name + "/p"));
      const double tolerance = o[4] == 1 ? 1e-12 : 1e-6;  // the penalty rounds logits to f32
      for (size_t i = 0; i < p.size(); ++i) {
        const double error = std::abs(p[i] - wanted[i]) / std::max(wanted[i], 1e-12);
        CHECK(error <= tolerance);
        test::record_fixture({"sampling.safetensors", name}, test::FixturePart::output, error,
                             tolerance);
      }
      for (size_t i = 0; i + 1 < got.size(); ++i)
        CHECK(got[i].probability >= got[i + 1].probability);
      ++cases;
    }
    CHECK(cases == 13);
  }

  TEST_CASE("draws follow the candidates") {
    const std::vector<float> logits = {1.5f, -0.5f, 0.25f, 2, -3, 0.75f};
    const GenerateOptions o{.temperature = 1.3, .top_k = 5, .top_p = 0.97, .min_p = 0.1};
    const auto drawn = shares(logits, o);
    const std::vector<Candidate> wanted = candidates(logits, o);
    CHECK(wanted.size() == 5);
    CHECK(drawn.size() == wanted.size());
    // Four standard deviations of a share in 20,000 draws.
    for (const auto& [id, p] : wanted)
      CHECK(std::abs(drawn.at(id) - p) < 4 * std::sqrt(p * (1 - p) / 20000));
  }

  TEST_CASE("what cannot be is refused") {
    const Ref<Module> model = small_model(false);
    Generator rng(1);
    test::check_error([&] { generate(model, {}, {}); }, {"prompt is empty"});
    test::check_error([&] { generate(model, kPrompt, {.tokens = -1}); }, {"tokens", "-1"});
    test::check_error([&] { generate(model, kPrompt, {.temperature = -1}); }, {"temperature"});
    test::check_error([&] { generate(model, kPrompt, {.top_p = 0}); }, {"top_p"});
    test::check_error([&] { generate(model, kPrompt, {.top_k = -2}); }, {"top_k"});
    test::check_error([&] { generate(model, kPrompt, {.min_p = 1.5}); }, {"min_p", "1.5"});
    test::check_error([&] { generate(model, kPrompt, {.repetition_penalty = 0}); },
                      {"repetition_penalty", "0"});
    test::check_error([&] { generate(model, kPrompt, {.stop_strings = {"a"}}); },
                      {"stop_strings", "tokenizer"});
    test::check_error([&] { generate_batch(model, {kPrompt, {}}); }, {"prompt is empty", "1"});
    std::vector<float> two = {0, 1};
    const std::vector<int32_t> outside = {2};
    test::check_error([&] { penalize_repetition(two, outside, 2); }, {"2 logits", "id 2"});
    const std::vector<float> nan = {0, NAN};
    test::check_error([&] { sample_token(nan, {}, rng); }, {"logit 1", "nan"});
    const std::vector<float> none = {-INFINITY, -INFINITY};
    for (const double temperature : {0.0, 1.0})
      test::check_error([&] { candidates(none, {.temperature = temperature}); },
                        {"every logit is -inf"});
  }
}
