// olm verify: whether two models are one.
#include <fmt/format.h>

#include <algorithm>

#include <olm/engine/utf8.h>
#include <olm/kernels/base/philox.h>

#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/hard_texts.h"
#include "tools/olm/machine.h"
#include "tools/olm/open.h"

namespace olm::tools {

namespace {

/// Differences of logits that a type's rounding of the weights makes, relative to the largest
/// logit; for types of fewer bits the last one holds.
struct Rounding {
  const char* type;
  double tolerance;
};
constexpr Rounding kRoundings[] = {{"F64", 1e-4},  {"F32", 1e-4},  {"F16", 1e-2},
                                   {"BF16", 5e-2}, {"Q8_0", 5e-2}, {"", 0.5}};

const Rounding& rounding_of(const std::string& type) {
  for (const Rounding& rounding : kRoundings)
    if (type == rounding.type) return rounding;
  return *std::prev(std::end(kRoundings));
}

/// A text of the tokenizer's own tokens: where a vocabulary is small, as of characters, it may know
/// none of the others.
std::string text_of_tokens(const nn::Tokenizer& tokenizer) {
  constexpr int kTokens = 200;
  std::string text;
  uint64_t state = 1;
  for (int i = 0; i < kTokens; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto id = int32_t((state >> 33) % uint64_t(tokenizer.min_rows()));
    const std::string_view bytes = tokenizer.token_bytes(id);
    if (find_invalid_utf8(bytes) == std::string::npos) text += bytes;
  }
  return text;
}

/// Whole lines of a file, a page at a time, up to some hundred kilobytes in all.
void add_pages(std::string_view text, std::vector<std::string>& texts) {
  constexpr size_t kPage = 2048, kPages = 64;
  for (size_t at = 0, pages = 0; at < text.size() && pages < kPages; ++pages) {
    size_t end = std::min(text.size(), at + kPage);
    if (end < text.size())
      if (const size_t line = text.rfind('\n', end); line != std::string_view::npos && line > at)
        end = line + 1;
    while (end < text.size() && (uint8_t(text[end]) & 0xc0) == 0x80) ++end;
    texts.emplace_back(text.substr(at, end - at));
    at = end;
  }
}

std::vector<std::string> texts_of(const VerifyArgs& args, const nn::Tokenizer& tokenizer) {
  std::vector<std::string> texts = hard_texts();
  texts.push_back(text_of_tokens(tokenizer));
  texts.insert(texts.end(), args.texts.begin(), args.texts.end());
  if (args.data.empty()) return texts;
  const nn::Corpus corpus = open_corpus(args.data);
  for (const std::string_view text : corpus.texts()) add_pages(text, texts);
  return texts;
}

void describe(const std::string& path, const nn::PretrainedFacts& facts) {
  fmt::print("{}: {}, weights in {}\n", path, kind_text(facts), facts.main_type());
}

/// What may differ, and why.
std::pair<double, std::string> allowed(const VerifyArgs& args, const std::string& a,
                                       const std::string& b) {
  if (args.tolerance) return {*args.tolerance, "as --tolerance says"};
  const std::string wide = detail::concat("f32 rounds sums in another order");
  if (a == b) return {rounding_of("F32").tolerance, wide};
  const std::string& coarse = rounding_of(a).tolerance >= rounding_of(b).tolerance ? a : b;
  const double tolerance = rounding_of(coarse).tolerance;
  if (tolerance <= rounding_of("F32").tolerance) return {tolerance, wide};
  return {tolerance, "weights of one are rounded to " + coarse};
}

}  // namespace

int verify(const VerifyArgs& args) {
  require(!args.tolerance || *args.tolerance >= 0, "--tolerance: a number from 0 on was wanted");
  const nn::PretrainedFacts facts_a = nn::inspect_pretrained(args.a),
                            facts_b = nn::inspect_pretrained(args.b);
  describe(args.a, facts_a);
  describe(args.b, facts_b);
  const nn::Pretrained a = open_model(args.a, cpu, f32), b = open_model(args.b, cpu, f32);
  const nn::Comparison c = nn::compare(a, b, texts_of(args, *a.tokenizer));
  const auto [tolerance, why] = allowed(args, facts_a.main_type(), facts_b.main_type());
  const double relative = c.largest_difference == 0 ? 0 : c.largest_difference / c.largest_logit;
  const bool same_ids = c.texts_with_other_ids == 0 && c.texts_refused < c.texts;
  const bool same_logits = c.places > 0 && relative <= tolerance;
  const int64_t compared = c.texts - c.texts_refused;
  if (c.texts_with_other_ids == 0)
    fmt::print("ids         the same for {} texts\n", compared);
  else
    fmt::print("ids         other ones for {} of {} texts, as {}\n", c.texts_with_other_ids,
               compared, Json(c.first_other).dump());
  if (c.texts_refused > 0)
    fmt::print("refused     {} texts have a character that one of the tokenizers lacks\n",
               c.texts_refused);
  fmt::print("logits      differ by {:.1e} of the largest, {:.4g}, at {} places\n", relative,
             c.largest_logit, grouped(c.places));
  fmt::print("tolerance   {:.1e}: {}\n", tolerance, why);
  fmt::print("likeliest   the same token at {:.2f} % of the places\n", 100 * c.same_likeliest);
  fmt::print("{}\n", same_ids && same_logits ? "equal" : "different");
  return same_ids && same_logits ? 0 : 1;
}

}  // namespace olm::tools
