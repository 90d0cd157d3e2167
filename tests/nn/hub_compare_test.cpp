// How far two models are apart.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/nn/hub.h>
#include <olm/nn/models.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

TEST_SUITE_BEGIN("nn/hub/compare");

namespace {

/// A small model over bytes, the same for the same seed.
Pretrained drawn(uint64_t seed, int64_t rows = 257, int64_t context = 16) {
  Pretrained result;
  const DecoderConfig config{.family = "llama",
                             .vocab_size = rows,
                             .embed_dim = 16,
                             .num_layers = 1,
                             .num_heads = 2,
                             .max_seq_len = context,
                             .tie_weights = false};
  result.model = DecoderModel(config);
  result.config = config.completed();
  result.tokenizer = std::make_shared<ByteTokenizer>();
  Generator rng(seed);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : result.model->named_parameters())
    tensors.emplace_back(name, randn(tensor.shape(), rng));
  result.model->load_state_dict(tensors);
  return result;
}

Tensor head(const Pretrained& model) { return model.model->named_parameters().back().second; }

const std::vector<std::string> kTexts = {"one", "a text that is longer than the context of both"};

}  // namespace

TEST_CASE("a model is no way apart from itself") {
  const Pretrained a = drawn(1);
  const Comparison same = compare(a, drawn(1), kTexts);
  CHECK(same.texts == 2);
  CHECK(same.texts_with_other_ids == 0);
  CHECK(same.first_other == "");
  CHECK(same.places == int64_t(kTexts[0].size() + kTexts[1].size()));
  CHECK(same.largest_logit > 1);
  CHECK(same.largest_difference == 0);
  CHECK(same.same_likeliest == 1);
}

TEST_CASE("differences of logits and of likeliest tokens are counted") {
  const Pretrained a = drawn(1), b = drawn(1), other = drawn(2);
  CHECK(compare(a, other, kTexts).same_likeliest < 0.5);
  const Tensor row = raw::slice(head(b), 0, 65, 66);
  raw::copy_(row, raw::cast(full(row.shape(), 1e6, options_of(row)), f32));
  const Comparison found = compare(a, b, kTexts);
  CHECK(found.largest_difference > 1e4);
  CHECK(found.largest_logit < 1e4);
  CHECK(found.same_likeliest < 1);
  raw::copy_(row, full(row.shape(), std::nan(""), options_of(row)));
  CHECK(std::isinf(compare(a, b, kTexts).largest_difference));
}

TEST_CASE("texts of which the tokenizers make other ids, or none, are counted") {
  const Pretrained a = drawn(1);
  Pretrained b = drawn(1);
  const std::vector<std::string_view> letters = {"eno"};
  b.tokenizer = train_tokenizer("char", letters);
  const Comparison found = compare(a, b, {"one", "two", "\xff"});
  CHECK(found.texts == 3);
  CHECK(found.texts_with_other_ids == 1);
  CHECK(found.texts_refused == 2);
  CHECK(found.first_other == "one");
}

TEST_CASE("padding rows are not compared, and other sizes are refused") {
  const Pretrained a = drawn(1);
  const Pretrained wide = drawn(3, 260);
  const auto copy = [](const Tensor& to, const Tensor& from) {
    raw::copy_(to.size(0) == from.size(0) ? to : raw::slice(to, 0, 0, from.size(0)), from);
  };
  const auto from = a.model->named_parameters(), to = wide.model->named_parameters();
  REQUIRE(from.size() == to.size());
  for (size_t i = 0; i < from.size(); ++i) copy(to[i].second, from[i].second);
  const Comparison found = compare(a, wide, kTexts);
  CHECK(found.largest_difference <= 1e-5 * found.largest_logit);
  CHECK(compare(wide, a, kTexts).places == found.places);
  const Pretrained narrow = drawn(1, 256);
  const std::string error = message_of<Error>([&] { compare(a, narrow, {"one"}); });
  CHECK_MESSAGE(contains(error, "257"), error);
  CHECK_MESSAGE(contains(error, "256"), error);
  // Also where one has no embedding of the other's ids.
  const std::string far = message_of<Error>([&] { compare(a, drawn(1, 64), {"one"}); });
  CHECK_MESSAGE(contains(far, "logits of 257 and of 64 tokens"), far);
}

TEST_CASE("windows reach as far as both contexts do") {
  const Comparison found = compare(drawn(1), drawn(1, 257, 5), kTexts);
  CHECK(found.places == int64_t(kTexts[0].size() + kTexts[1].size()));
  CHECK(found.largest_difference == 0);
}

TEST_CASE("models in other dtypes and models without a tokenizer are refused") {
  const Pretrained a = drawn(1);
  Pretrained b = drawn(1);
  b.model->to(bf16);
  const std::string dtype = message_of<Error>([&] { compare(a, b, kTexts); });
  CHECK_MESSAGE(contains(dtype, "bf16"), dtype);
  Pretrained none = drawn(1);
  none.tokenizer.reset();
  const std::string error = message_of<Error>([&] { compare(a, none, kTexts); });
  CHECK_MESSAGE(contains(error, "second model has no tokenizer"), error);
}

TEST_SUITE_END();
