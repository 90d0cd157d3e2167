#pragma once
// The parts of byte-pair encoding: the split into words, and the model.
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace olm::nn::bpe {

/// Cuts text into words by a regular expression. What lies between two matches is a word too.
class Splitter {
 public:
  /// Throws Error if `pattern` is no regular expression of PCRE2.
  explicit Splitter(const std::string& pattern);
  /// Calls `word` for each word of `text`, which is valid UTF-8. Throws where matching takes too
  /// long.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  std::shared_ptr<void> code_;
};

/// GPT-2's expression: contractions, letters, digits and other signs, each with the space before
/// it, and runs of white space, whose last space belongs to the word behind it.
extern const char* const kGpt2Pattern;

/// Two ids as one key.
constexpr uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}

using TakeText = std::function<void(std::string_view)>;
using TakeToken = std::function<void(int32_t)>;

/// Finds tokens in a text from left to right: of those that begin together the longest, and the
/// next behind its end.
class TokenTrie {
 public:
  TokenTrie();
  void add(std::string_view token, int32_t id);
  /// Hands out the tokens of `text` and what lies between them, in order.
  void cut(std::string_view text, const TakeText& take_text, const TakeToken& take_token) const;

 private:
  struct Match {
    size_t length = 0;
    int32_t id = -1;
  };
  Match longest(std::string_view text) const;
  std::array<int32_t, 256> first_;              // nodes by first byte, or -1
  std::unordered_map<uint64_t, int32_t> next_;  // nodes by the node before and the byte
  std::vector<int32_t> ids_;                    // by node; -1 where no token ends
};

/// A token that is looked for in the text itself, before it is cut into words.
struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool special = true;      // what readers of tokenizer.json may leave out of decoded text
  bool normalized = false;  // looked for in what the others leave
  bool in_vocabulary = true;
};

class AddedTokens {
 public:
  void add(AddedToken token);
  const std::vector<AddedToken>& all() const { return all_; }
  /// As TokenTrie's; tokens that are `normalized` after the others, as in Hugging Face's
  /// tokenizers, where a normaliser acts between the two.
  void cut(std::string_view text, const TakeText& take_text, const TakeToken& take_token) const;

 private:
  std::vector<AddedToken> all_;
  TokenTrie literal_, normalized_;
};

struct Merge {
  int32_t rank = 0;
  int32_t id = 0;
};

struct Model {
  explicit Model(std::string expression) : pattern(std::move(expression)), splitter(pattern) {}
  std::string pattern;
  Splitter splitter;
  std::vector<std::string> tokens;  // bytes by id; added tokens as their text
  int32_t byte_ids[256] = {};
  std::vector<std::pair<int32_t, int32_t>> merge_list;  // in order of rank
  std::unordered_map<uint64_t, Merge> merges;           // by pair_key
  AddedTokens added;
  bool whole_words_first = false;                  // a word that is a token is taken as it is
  std::unordered_map<std::string, int32_t> words;  // filled only for whole_words_first

  void add_merge(int32_t left, int32_t right, int32_t id);
  /// Appends the ids of one word.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;
};

/// The printable character that stands for a byte in tokenizer.json (GPT-2's table), and back; -1
/// for characters that stand for none.
char32_t letter_of_byte(uint8_t byte);
int byte_of_letter(char32_t letter);

/// "the text is not UTF-8 …": throws Error naming `who` unless it is.
void require_utf8(const char* who, std::string_view text);

}  // namespace olm::nn::bpe
