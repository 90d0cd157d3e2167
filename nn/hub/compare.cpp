// How far two models are apart.
#include <algorithm>
#include <cmath>
#include <limits>

#include <olm/autograd/tape.h>
#include <olm/nn/generate.h>
#include <olm/nn/hub.h>

namespace olm::nn {

namespace {

/// The ids of a text; empty where the tokenizer refuses it.
std::optional<std::vector<int32_t>> ids_of(const Tokenizer& tokenizer, const std::string& text,
                                           const EncodeOptions& options) try {
  return tokenizer.encode(text, options);
} catch (const Error&) {
  return {};
}

enum class Ids : uint8_t { same, other, refused };
/// In each way that a text can be encoded.
Ids compare_ids(const Tokenizer& a, const Tokenizer& b, const std::string& text) {
  for (const bool add : {true, false})
    for (const bool parse : {true, false}) {
      const EncodeOptions options{.add_special_tokens = add, .parse_special_tokens = parse};
      const auto x = ids_of(a, text, options), y = ids_of(b, text, options);
      if (!x || !y) return Ids::refused;
      if (x != y) return Ids::other;
    }
  return Ids::same;
}

int64_t context_of(const Pretrained& model) {
  return model.config ? model.config->max_seq_len : 1024;
}

/// Tokens that a model has logits of, as far as is known before it runs.
int64_t rows_of(const Pretrained& model) {
  return model.config ? model.config->vocab_size : model.tokenizer->vocab_size();
}

void check_parameters(Module& model) {
  for (const auto& [name, tensor] : model.named_parameters())
    require(tensor.dtype() == f32, "compare: ", name, " is ", name_of(tensor.dtype()),
            "; models in f32 were wanted");
}

/// Logits [T, V] of one window.
std::vector<float> logits_of(const Pretrained& model, std::span<const int32_t> ids,
                             int64_t& width) {
  Context ctx;
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  const int64_t count = int64_t(ids.size());
  const Tensor y = model.model->forward(from_host(wide, {1, count}, device_of(*model.model)), ctx);
  require(y.rank() == 3 && y.size(0) == 1 && y.size(1) == count, "compare: the model made ",
          y.shape(), " of ids [1,", count, "], logits [1,", count, ",V] were wanted");
  width = y.size(2);
  return to_host<float>(y);
}

/// Compares models window by window.
class Comparer {
 public:
  Comparer(const Pretrained& a, const Pretrained& b) : a_(a), b_(b) {
    ids_ = std::max(a.tokenizer->vocab_size(), b.tokenizer->vocab_size());
    window_ = size_t(std::min(context_of(a), context_of(b)));
    check_widths(rows_of(a), rows_of(b));
  }
  void text(const std::string& text);
  Comparison result() const;

 private:
  void window(std::span<const int32_t> ids);
  void place(const float* a, const float* b, int64_t width);
  /// Rows behind the last id are padding, of which one model may have more.
  void check_widths(int64_t a, int64_t b) const {
    require(a == b || ids_ <= std::min(a, b), "compare: the models have logits of ", a, " and of ",
            b, " tokens; equal numbers were wanted");
  }
  const Pretrained& a_;
  const Pretrained& b_;
  int64_t ids_ = 0;    // of both tokenizers
  size_t window_ = 0;  // tokens that go through the models at once
  int64_t same_ = 0;
  Comparison found_;
};

void Comparer::text(const std::string& text) {
  const auto ids = ids_of(*a_.tokenizer, text, {.add_special_tokens = true});
  ++found_.texts;
  const Ids compared = compare_ids(*a_.tokenizer, *b_.tokenizer, text);
  found_.texts_refused += compared == Ids::refused;
  if (compared == Ids::other && found_.texts_with_other_ids++ == 0) found_.first_other = text;
  if (!ids) return;
  const std::span<const int32_t> all(*ids);
  for (size_t at = 0; at < all.size(); at += window_)
    window(all.subspan(at, std::min(window_, all.size() - at)));
}

void Comparer::window(std::span<const int32_t> ids) {
  int64_t a_width = 0, b_width = 0;
  const std::vector<float> a = logits_of(a_, ids, a_width), b = logits_of(b_, ids, b_width);
  check_widths(a_width, b_width);
  const int64_t width = std::min(a_width, b_width);
  for (size_t t = 0; t < ids.size(); ++t)
    place(&a[t * size_t(a_width)], &b[t * size_t(b_width)], width);
}

void Comparer::place(const float* a, const float* b, int64_t width) {
  for (int64_t v = 0; v < width; ++v) {
    double difference = std::abs(double(a[v]) - double(b[v]));
    if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
    found_.largest_difference = std::max(found_.largest_difference, difference);
    found_.largest_logit = std::max(found_.largest_logit, std::abs(double(a[v])));
  }
  ++found_.places;
  same_ += std::max_element(a, a + width) - a == std::max_element(b, b + width) - b;
}

Comparison Comparer::result() const {
  Comparison result = found_;
  if (result.places) result.same_likeliest = double(same_) / double(result.places);
  return result;
}

}  // namespace

Comparison compare(const Pretrained& a, const Pretrained& b,
                   const std::vector<std::string>& texts) {
  require(a.model && b.model, "compare: two models were wanted");
  require(a.tokenizer && b.tokenizer, "compare: the ", a.tokenizer ? "second" : "first",
          " model has no tokenizer");
  check_parameters(*a.model);
  check_parameters(*b.model);
  NoGrad guard;
  Comparer comparer(a, b);
  for (const std::string& text : texts) comparer.text(text);
  return comparer.result();
}

}  // namespace olm::nn
