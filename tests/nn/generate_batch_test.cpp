// Several prompts at once, penalties, stop strings and log-probabilities.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include <olm/engine/raw.h>
#include <olm/engine/utf8.h>
#include <olm/nn/generate.h>
#include <olm/nn/models.h>

#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;

namespace {

const CharTokenizer& tokenizer() {
  static const CharTokenizer instance(U"abcdefgh\u00e9");
  return instance;
}

Ref<Module> small_model() {
  const Ref<Module> model = Llama2Model({.vocab_size = 9,
                                         .embed_dim = 16,
                                         .intermediate_size = 24,
                                         .num_layers = 2,
                                         .num_heads = 4,
                                         .num_kv_heads = 2,
                                         .max_seq_len = 24});
  init(*model, {.seed = 5});  // wide enough that draws are not near ties
  return model;
}

const std::vector<std::vector<int32_t>> kPrompts = {{1, 5, 8}, {2, 2}, {7, 0, 3}, {4}, {1, 5, 8}};

std::vector<std::vector<double>> all_logits(const Ref<Module>& model,
                                            const std::vector<int32_t>& ids) {
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  const std::vector<double> flat =
      to_host<double>(raw::cast(model(from_host(wide, {1, int64_t(ids.size())})), f64));
  const size_t vocab = flat.size() / ids.size();
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < ids.size(); ++i)
    rows.emplace_back(flat.begin() + int64_t(i * vocab), flat.begin() + int64_t((i + 1) * vocab));
  return rows;
}

/// The text of `pieces` through a filter, as pushed piece by piece and as it came out.
std::string filtered(std::vector<std::string> stops, const std::vector<std::string>& pieces,
                     bool expect_stop) {
  StopFilter filter(std::move(stops));
  std::string out;
  for (const std::string& piece : pieces) out += filter.push(piece);
  out += filter.finish();
  CHECK(filter.stopped() == expect_stop);
  return out;
}

}  // namespace

TEST_SUITE("nn/generate_batch") {
  TEST_CASE("a batch of prompts gives what each gives alone, with and without a cache") {
    const Ref<Module> model = small_model();
    for (const double temperature : {0.0, 1.0}) {
      for (const bool cached : {true, false}) {
        GenerateOptions o{.tokens = 40,
                          .temperature = temperature,
                          .repetition_penalty = 1.1,
                          .seed = 3,
                          .context = 24,
                          .use_cache = cached,
                          .stop = {6}};
        const std::vector<Generated> batch = generate_batch(model, kPrompts, o, &tokenizer());
        REQUIRE(batch.size() == kPrompts.size());
        for (size_t i = 0; i < kPrompts.size(); ++i) {
          INFO("prompt ", i, " temperature ", temperature, " cached ", cached);
          CHECK(batch[i].ids == generate(model, kPrompts[i], o));
          CHECK(batch[i].text == tokenizer().decode(batch[i].ids));
        }
        CHECK(batch[0].ids == batch[4].ids);
        CHECK(batch[0].ids != batch[2].ids);
        o.use_cache = !cached;
        const std::vector<Generated> other = generate_batch(model, kPrompts, o);
        for (size_t i = 0; i < other.size(); ++i) CHECK(other[i].ids == batch[i].ids);
      }
    }
  }

  TEST_CASE("more prompts than go through the model at once") {
    const Ref<Module> model = small_model();
    std::vector<std::vector<int32_t>> prompts;
    for (int32_t i = 0; i < 70; ++i) prompts.push_back({i % 9, i / 9});
    const GenerateOptions o{.tokens = 4, .temperature = 0};
    const std::vector<Generated> batch = generate_batch(model, prompts, o);
    for (size_t i = 0; i < prompts.size(); i += 23)
      CHECK(batch[i].ids == generate(model, prompts[i], o));
    CHECK(generate_batch(model, {}, o).empty());
  }

  TEST_CASE("the penalty acts on prompt and text, as a plain loop over logits says") {
    const Ref<Module> model = small_model();
    for (const double penalty : {1.0, 1.5, 4.0, 0.5}) {
      std::vector<int32_t> all = kPrompts[0], made;
      for (int step = 0; step < 16; ++step) {
        std::vector<double> logits = all_logits(model, all).back();
        for (int32_t id = 0; id < 9; ++id)
          if (std::find(all.begin(), all.end(), id) != all.end()) {
            double& z = logits[size_t(id)];
            z = z < 0 ? z * penalty : z / penalty;
          }
        made.push_back(int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        all.push_back(made.back());
      }
      INFO("penalty ", penalty);
      const GenerateOptions o{.tokens = 16, .temperature = 0, .repetition_penalty = penalty};
      CHECK(generate(model, kPrompts[0], o) == made);
    }
  }

  TEST_CASE("log-probabilities are those of the model, whatever the options") {
    const Ref<Module> model = small_model();
    GenerateOptions o{
        .tokens = 12, .temperature = 0.6, .top_k = 4, .repetition_penalty = 1.3, .logprobs = true};
    const std::vector<Generated> batch = generate_batch(model, kPrompts, o);
    for (size_t p = 0; p < kPrompts.size(); ++p) {
      std::vector<int32_t> all = kPrompts[p];
      const size_t first = all.size();
      all.insert(all.end(), batch[p].ids.begin(), batch[p].ids.end());
      const auto logits = all_logits(model, all);
      REQUIRE(batch[p].logprobs.size() == batch[p].ids.size());
      for (size_t i = 0; i < batch[p].ids.size(); ++i) {
        const std::vector<double>& row = logits[first + i - 1];
        double sum = 0;
        for (const double z : row) sum += std::exp(z);
        const double wanted = row[size_t(batch[p].ids[i])] - std::log(sum);
        CHECK(batch[p].logprobs[i] == doctest::Approx(wanted).epsilon(1e-5));
      }
    }
    o.logprobs = false;
    CHECK(generate_batch(model, kPrompts, o)[0].logprobs.empty());
  }

  TEST_CASE("text ends before a stop string that straddles tokens, and nothing comes after") {
    const Ref<Module> model = small_model();
    const GenerateOptions free{.tokens = 20, .seed = 2};
    const Generated whole = generate_batch(model, {kPrompts[0]}, free, &tokenizer())[0];
    const std::string text = whole.text;
    CHECK(whole.reason == StopReason::tokens);
    for (const size_t length : {size_t(1), size_t(2), size_t(5)}) {
      const std::string stop = text.substr(text.size() - 8, length);
      if (find_invalid_utf8(stop) != std::string::npos) continue;
      GenerateOptions o = free;
      o.stop_strings = {"no such text", stop};
      std::string told;
      const Generated cut = generate_batch(model, {kPrompts[0]}, o, &tokenizer(),
                                           [&](size_t, int32_t, std::string_view piece) {
                                             told += piece;
                                             return true;
                                           })[0];
      INFO("stop ", stop, " in ", text);
      CHECK(cut.text == text.substr(0, text.find(stop)));
      CHECK(told == cut.text);
      CHECK(cut.reason == StopReason::stop_string);
      CHECK(cut.ids.size() < whole.ids.size());
      CHECK(tokenizer().decode(cut.ids).ends_with(stop));
    }
  }

  TEST_CASE("a filter cuts at the stop string that is complete first") {
    CHECK(filtered({"lo w"}, {"hel", "l", "o", " ", "world"}, true) == "hel");
    CHECK(filtered({"abc"}, {"ab", "ab", "c"}, true) == "ab");
    CHECK(filtered({"abc", "b"}, {"xab", "c"}, true) == "xa");
    CHECK(filtered({"b", "ab"}, {"xab"}, true) == "x");
    CHECK(filtered({"aab"}, {"aaa", "ab"}, true) == "aa");
    CHECK(filtered({"abab"}, {"ababab"}, true).empty());
    CHECK(filtered({"end"}, {"the e", "n"}, false) == "the en");
    CHECK(filtered({"\u00e9"}, {"\u00e8", "\u00e9\u00e8"}, true) == "\u00e8");
    CHECK(filtered({}, {"a", "b"}, false) == "ab");
    StopFilter filter({"stop", "top"});
    CHECK(filter.push("a st") == "a ");
    CHECK(filter.push("ar s") == "star ");
    CHECK(filter.push("top").empty());
    CHECK(filter.push("more").empty());
    test::check_error([] { StopFilter({"a", ""}); }, {"stop_strings", "one character"});
    test::check_error([] { StopFilter({"a\xff"}); }, {"stop_strings", "UTF-8", "byte 1"});
  }

  TEST_CASE("a callback ends its own text alone") {
    const Ref<Module> model = small_model();
    const GenerateOptions o{.tokens = 10, .seed = 1};
    const std::vector<Generated> all = generate_batch(model, kPrompts, o);
    std::vector<int> heard(kPrompts.size(), 0);
    const std::vector<Generated> some = generate_batch(
        *model, kPrompts, o, nullptr,
        [&](size_t i, int32_t, std::string_view) { return ++heard[i] < 3 || i != 2; });
    for (size_t i = 0; i < kPrompts.size(); ++i) {
      const size_t wanted = i == 2 ? 3 : 10;
      CHECK(some[i].ids.size() == wanted);
      CHECK(heard[i] == int(wanted));
      CHECK(std::equal(some[i].ids.begin(), some[i].ids.end(), all[i].ids.begin()));
    }
    CHECK(std::string(name_of(some[2].reason)) == "callback");
    CHECK(std::string(name_of(some[0].reason)) == "tokens");
  }
}
