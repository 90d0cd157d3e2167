#pragma once
// Regular expressions of tokenizer.json: Oniguruma's syntax, matched by PCRE2.
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace olm::nn::bpe {

/// Oniguruma's expression in PCRE2's syntax, where UTF and UCP are set. Throws Error for what has
/// no counterpart.
std::string pcre2_of_oniguruma(const std::string& pattern);

/// A compiled expression. Copies share it; it may be used from several threads.
class Regex {
 public:
  /// An expression of Oniguruma. Throws Error for a wrong one.
  explicit Regex(const std::string& oniguruma) : Regex(pcre2_of_oniguruma(oniguruma), 0) {}
  /// One of PCRE2.
  static Regex of_pcre2(const std::string& pattern) { return Regex(pattern, 0); }

 private:
  friend class Matcher;
  Regex(const std::string& pcre2, int);
  std::shared_ptr<void> code_;
  bool jit_ = false;
};

/// Finds matches of one expression, in one thread. Texts are valid UTF-8.
class Matcher {
 public:
  explicit Matcher(const Regex& regex);
  /// The first match that begins at `from` or later. Throws Error where matching takes too long.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end);

 private:
  Regex regex_;
  std::shared_ptr<void> data_, context_;
};

/// Calls take(begin, end, is_match) for all of `text`, matches and what lies between them in turn.
/// A match may be empty, but not where the one before it ended.
template <class Take>
void for_matches(Matcher& matcher, std::string_view text, Take&& take) {
  size_t done = 0, from = 0, begin = 0, end = 0;
  bool any = false;
  while (from <= text.size() && matcher.find(text, from, begin, end)) {
    if (begin == end && any && end == done) {
      for (++from; from < text.size() && (text[from] & 0xc0) == 0x80;) ++from;
      continue;
    }
    if (begin > done) take(done, begin, false);
    take(begin, end, true);
    done = from = end;
    any = true;
  }
  if (done < text.size()) take(done, text.size(), false);
}

}  // namespace olm::nn::bpe
