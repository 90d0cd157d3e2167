#pragma once
// Byte-pair encoding of one word, and the letters that stand for bytes in tokenizer.json.
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace olm::nn::bpe {

/// GPT-2's expression: contractions, letters, digits and other signs, each with the space before
/// it, and runs of white space, whose last space belongs to the word behind it.
extern const char* const kGpt2Pattern;

/// The printable character that stands for a byte in tokenizer.json (GPT-2's table), and back; -1
/// for characters that stand for none.
char32_t letter_of_byte(uint8_t byte);
int byte_of_letter(char32_t letter);
/// bytes → the letters that stand for them.
std::string letters_of_bytes(std::string_view bytes);
/// The bytes that letters stand for. False where `text` has other characters; `bytes` is then not
/// meaningful.
bool bytes_of_letters(std::string_view text, std::string& bytes);

/// "the text is not UTF-8 …": throws Error naming `who` unless it is.
void require_utf8(const char* who, std::string_view text);

/// Two ids as one key.
constexpr uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}
/// Spreads the bits of a key over a hash.
constexpr uint64_t mix(uint64_t key) {
  key *= 0x9e3779b97f4a7c15u;
  return key ^ key >> 32;
}
/// Of short texts, not for keeping.
uint64_t hash_of(std::string_view text);

/// Which pairs of ids join to which, in a table of open addressing.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  ///< -1: they do not join
    int32_t id = 0;
  };
  void reserve(size_t count);
  /// A pair that comes twice has its last rank. At most as many as were reserved.
  void add(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = pair_key(left, right);
    for (uint64_t at = mix(key) & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].merge;
      if (slots_[at].key == kFree) return {};
    }
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t(0);  // no pair of ids
  struct Slot {
    uint64_t key = kFree;
    Merge merge;
  };
  std::vector<Slot> slots_ = std::vector<Slot>(2);
  uint64_t mask_ = 1;
};

/// Ids by text, in a table of open addressing over texts that lie elsewhere.
class TextTable {
 public:
  void reserve(size_t count);
  /// False where the text is there already. `texts[id]` is the text.
  bool add(const std::vector<std::string>& texts, int32_t id);
  int32_t find(const std::vector<std::string>& texts, std::string_view text) const;  ///< or -1

 private:
  std::vector<int32_t> ids_ = std::vector<int32_t>(2, -1);
  uint64_t mask_ = 1;
};

/// The model of a tokenizer.json.
struct Model {
  std::vector<std::string> tokens;  ///< text by id; that of added tokens too
  TextTable ids;                    ///< of the vocabulary, hence without some added tokens
  std::vector<std::pair<int32_t, int32_t>> merge_list;  ///< in order of rank
  MergeTable merges;
  std::string unk, prefix, suffix;  ///< "" for none; of characters behind the first, of the last
  bool has_unk = false;
  bool fuse_unk = false, byte_fallback = false;
  bool whole_words_first = false;  ///< ignore_merges: a word that is a token is taken as it is

  int32_t id_of(std::string_view token) const { return ids.find(tokens, token); }
  /// Fills what follows from the members above.
  void finish();
  /// Appends the ids of one word, which is not empty. Counts characters that are left out.
  void encode_word(std::string_view word, std::vector<int32_t>& ids, int64_t& dropped) const;
  /// Where a word may be cut without other ids: before a U+2581 that no merge joins to what stands
  /// before it. Returns the first such place behind `from`, or the size.
  size_t next_border(std::string_view word, size_t from) const;

 private:
  int32_t id_of_character(char32_t code) const;
  bool add_bytes(std::string_view character, std::vector<int32_t>& symbols) const;
  void add_symbols(std::string_view word, std::vector<int32_t>& symbols, int64_t& dropped) const;

  std::vector<int32_t> low_;                         // ids of characters below U+3000, or -1
  std::unordered_map<char32_t, int32_t> high_;       // of the others
  std::unordered_map<char32_t, bool> before_space_;  // characters that a merge joins to a U+2581
  int32_t byte_tokens_[256] = {};                    // "<0x41>", or -1
  bool cuts_at_spaces_ = false;
};

}  // namespace olm::nn::bpe
