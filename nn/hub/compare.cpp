// Two models on the same texts.
#include <algorithm>
#include <cmath>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/generate.h>
#include <olm/nn/hub.h>

namespace olm::nn {

namespace {

/// The ids of a text; none where the tokenizer refuses it.
std::optional<std::vector<int32_t>> ids_of(const Tokenizer& tokenizer, const std::string& text,
                                           const EncodeOptions& options) {
  try {
    return tokenizer.encode(text, options);
  } catch (const Error&) {
    return {};
  }
}

bool same_ids(const Tokenizer& a, const Tokenizer& b, const std::string& text) {
  for (const bool add : {true, false})
    for (const bool parse : {true, false}) {
      const EncodeOptions options{.add_special_tokens = add, .parse_special_tokens = parse};
      if (ids_of(a, text, options) != ids_of(b, text, options)) return false;
    }
  return true;
}

/// Logits of ids, row by row.
struct Logits {
  std::vector<float> values;
  int64_t vocab = 0;
  const float* row(int64_t t) const { return values.data() + t * vocab; }
};

Logits logits_of(Module& model, const std::vector<int64_t>& ids) {
  Context ctx;
  const Tensor y = model.forward(from_host(ids, {1, int64_t(ids.size())}, device_of(model)), ctx);
  return {to_host<float>(y), y.size(-1)};
}

void compare_logits(const Pretrained& a, const Pretrained& b, const std::vector<int64_t>& ids,
                    Comparison& result, int64_t& same) {
  const Logits x = logits_of(*a.model, ids), y = logits_of(*b.model, ids);
  const int64_t vocab = std::min(x.vocab, y.vocab);
  for (int64_t t = 0; t < int64_t(ids.size()); ++t) {
    const float *p = x.row(t), *q = y.row(t);
    for (int64_t i = 0; i < vocab; ++i) {
      const double difference = std::abs(double(p[i]) - double(q[i]));
      // What is no number is further away than any number.
      result.largest_difference =
          std::isnan(difference) ? INFINITY : std::max(result.largest_difference, difference);
      result.largest_logit = std::max(result.largest_logit, double(std::abs(p[i])));
    }
    same += std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
  }
  result.places += int64_t(ids.size());
}

}  // namespace

Comparison compare(const Pretrained& a, const Pretrained& b,
                   const std::vector<std::string>& texts) {
  require(a.tokenizer && b.tokenizer, "compare: the ", a.tokenizer ? "second" : "first",
          " model has no tokenizer");
  NoGrad guard;
  Comparison result;
  int64_t same = 0, longest = INT64_MAX;
  for (const Pretrained* model : {&a, &b})
    if (const int64_t context = context_of(*model->model)) longest = std::min(longest, context);
  // Both have a row for each of these.
  const int64_t known = std::min(a.tokenizer->vocab_size(), b.tokenizer->vocab_size());
  for (const std::string& text : texts) {
    ++result.texts;
    if (!same_ids(*a.tokenizer, *b.tokenizer, text) && result.texts_with_other_ids++ == 0)
      result.first_other = text;
    const auto ids =
        ids_of(*a.tokenizer, text, {.add_special_tokens = true, .parse_special_tokens = true});
    if (!ids) continue;
    std::vector<int64_t> kept;
    for (size_t i = 0; i < ids->size() && int64_t(i) < longest && (*ids)[i] < known; ++i)
      kept.push_back((*ids)[i]);
    if (!kept.empty()) compare_logits(a, b, kept, result, same);
  }
  if (result.places > 0) result.same_likeliest = double(same) / double(result.places);
  return result;
}

}  // namespace olm::nn
