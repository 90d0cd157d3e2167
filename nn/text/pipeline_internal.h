#pragma once
// The parts of a tokenizer.json, in the order in which they act.
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <olm/engine/json.h>
#include <olm/nn/text.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/regex_internal.h>
#include <olm/nn/text/unicode_internal.h>

namespace olm::nn::bpe {

/// A value in tokenizer.json with its path there, which errors name.
class JsonPart {
 public:
  JsonPart(const Json& json, std::string path) : json_(&json), path_(std::move(path)) {}
  const Json& json() const { return *json_; }
  const std::string& path() const { return path_; }
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(path_, ": ", parts...);
  }
  JsonPart at(const std::string& key) const;
  JsonPart item(size_t i) const;
  size_t size() const;                                         ///< of an array
  std::optional<JsonPart> find(const std::string& key) const;  ///< nothing for null too
  const std::string& text() const;
  int64_t integer() const;
  bool flag(const std::string& key, bool otherwise) const;
  std::string type() const { return at("type").text(); }
  [[noreturn]] void refuse_type(const char* what, const char* known) const;

 private:
  template <class Read>
  auto read(Read&& read) const;
  const Json* json_;
  std::string path_;
};

/// A string or an expression: {"String": …} or {"Regex": …}.
struct Pattern {
  std::string text;
  std::optional<Regex> regex;
  static Pattern read(const JsonPart& part);
  /// `text` with `content` for each match; `spans` are those of the matches.
  std::string replace(std::string_view text, std::string_view content) const;
};

/// Calls take(begin, end, is_match) for all of `inside`, as for_matches does.
template <class Take>
void for_matches(std::string_view pattern, std::string_view inside, Take&& take) {
  size_t done = 0;
  for (size_t at; (at = inside.find(pattern, done)) != inside.npos; done = at + pattern.size()) {
    if (at > done) take(done, at, false);
    take(at, at + pattern.size(), true);
  }
  if (done < inside.size()) take(done, inside.size(), false);
}

/// Most steps of one kind in a tokenizer.json.
constexpr size_t kMaxSteps = 256;
/// How long a text may become that was `size` bytes: no normal form makes 64 of one.
constexpr size_t max_grown(size_t size) { return size * 64 + (size_t(1) << 16); }
void require_grown(size_t size, size_t limit);

// ---- added tokens -------------------------------------------------------------------------------

/// Finds tokens in a text, in time linear in its length: an automaton of Aho and Corasick (1975)
/// over the reversed tokens, run from the end of the text, knows the longest token that begins at
/// each place.
class TokenFinder {
 public:
  struct Found {
    size_t begin = 0, length = 0;
    int32_t value = 0;
  };
  /// False where the token is there already.
  bool add(std::string_view token, int32_t value);
  void finish();
  /// From left to right, the longest of those that begin together, each behind the end of the one
  /// before.
  std::vector<Found> find(std::string_view text) const;

 private:
  struct Node {
    int32_t failure = 0, value = -1, longest = 0;  // longest: node of the longest token that ends
    int32_t depth = 0;
  };
  int32_t child(int32_t node, uint8_t byte) const;
  std::array<int32_t, 256> roots_{};            // children of the root, 0 for none
  std::unordered_map<uint64_t, int32_t> next_;  // children by node and byte
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

/// A part of a text: an added token, or what lies between two.
struct Section {
  size_t begin = 0, end = 0;
  int32_t id = -1;
};

/// Added tokens that are looked for together.
class AddedTokens {
 public:
  /// False where another has the same text.
  bool add(const AddedToken& token, std::string_view text);
  void finish() { finder_.finish(); }
  /// Sections of `text`, in turn. Without `special`, special tokens are text.
  std::vector<Section> cut(std::string_view text, bool special) const;

 private:
  TokenFinder finder_;
  std::vector<AddedToken> tokens_;
};

// ---- normalizers --------------------------------------------------------------------------------

/// A text that is being normalised, and how many of its first bytes come from the first character
/// of the whole text: Metaspace asks for that.
struct Normalized {
  std::string text;
  size_t from_first = 0;
};

struct Normalizer {
  enum class Kind { form, replace, prepend, strip, lower_case, strip_accents, nmt };
  Kind kind = Kind::form;
  NormalForm form = NormalForm::nfc;
  Pattern pattern = {};
  std::string content = {};
  bool left = false, right = false;

  void apply(Normalized& text) const;

 private:
  void replace(Normalized& text) const;
};
/// Sequences are flattened.
void read_normalizer(const JsonPart& part, std::vector<Normalizer>& into);

// ---- pre-tokenizers -----------------------------------------------------------------------------

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// What a pre-tokenizer does is one or more of these steps.
struct Step {
  enum class Kind {
    cut,        ///< at matches of `pattern` or characters of `is_member`
    prefix,     ///< with `text`, where a word does not begin with it
    metaspace,  ///< spaces become `text`, one of which is put before
    letters     ///< bytes become letters
  };
  enum class Scheme { always, first, never };
  Kind kind = Kind::cut;
  Pattern pattern = {};
  bool (*is_member)(char32_t) = nullptr;
  Behavior behavior = Behavior::isolated;
  bool invert = false;
  std::string text = {};
  Scheme scheme = Scheme::always;
};
void read_pre_tokenizer(const JsonPart& part, std::vector<Step>& into);

/// Runs steps over texts, in one thread.
class WordCutter {
 public:
  explicit WordCutter(const std::vector<Step>& steps);
  /// Calls take(word) for each word of a text; none is empty.
  template <class Take>
  void run(std::string_view text, size_t from_first, const Take& take) {
    take_ = &take;
    call_ = [](const void* to, std::string_view word) {
      (*static_cast<const std::decay_t<Take>*>(to))(word);
    };
    limit_ = max_grown(text.size());
    run_from(0, text, from_first);
  }

 private:
  void run_from(size_t step, std::string_view text, size_t from_first);
  void cut(size_t step, std::string_view text, size_t from_first);
  void metaspace(size_t step, std::string_view text, size_t from_first);

  const std::vector<Step>& steps_;
  std::vector<std::optional<Matcher>> matchers_;  // by step
  std::vector<std::string> buffers_;              // likewise
  size_t limit_ = 0;                              // of bytes in a buffer
  const void* take_ = nullptr;
  void (*call_)(const void*, std::string_view) = nullptr;
};

// ---- decoders -----------------------------------------------------------------------------------

struct Decoder {
  enum class Kind { byte_level, metaspace, replace, byte_fallback, fuse, strip, bpe };
  Kind kind = Kind::fuse;
  Pattern pattern = {};
  std::string content = {};  ///< replacement, character or suffix
  bool prefixed = false;     ///< of Metaspace: the first text loses it
  size_t start = 0, stop = 0;

  void apply(std::vector<std::string>& texts) const;
};
void read_decoder(const JsonPart& part, std::vector<Decoder>& into);
/// The bytes of one token amid a text: what stands only at the begin or the end of a text is not
/// taken off.
std::string bytes_amid(const std::vector<Decoder>& decoders, const std::string& token);

// ---- all of it ----------------------------------------------------------------------------------

struct Pipeline {
  Json frame;                     ///< tokenizer.json without vocabulary and merges
  bool merges_are_texts = false;  ///< "a b" in place of ["a", "b"]
  std::vector<int32_t> order;     ///< ids of the vocabulary as they stood, where not ascending
  size_t vocabulary_size = 0;     ///< without added tokens that it lacks
  Model model;
  std::vector<AddedToken> added;            ///< as they stood
  std::unordered_set<std::string> special;  ///< texts of special tokens
  std::unordered_map<std::string, int32_t> added_ids;
  AddedTokens literal, normalized;  ///< looked for in the text, and in normalised text
  std::vector<Normalizer> normalizers;
  std::vector<Step> steps;
  bool letters_last = false;           ///< a last step that turns the bytes of words into letters
  std::vector<int32_t> before, after;  ///< ids that the post-processor adds
  bool has_decoder = false;
  std::vector<Decoder> decoders;
  std::unordered_map<int32_t, std::string> shown;  ///< texts of added tokens for the decoder
  std::vector<std::string> bytes;                  ///< token_bytes by id
  SpecialTokens special_ids;

  const std::string& text_of(int32_t id) const;
};

/// The tokenizer.json of a byte-level vocabulary: bytes by id, of which the one that is
/// <|endoftext|> is a special token; with GPT-2's words, or without cutting.
Json byte_level_json(const std::vector<std::string>& tokens, Json merges, bool cuts_words);

std::shared_ptr<const Pipeline> read_pipeline(const Json& json);
Json to_json(const Pipeline& pipeline);
std::vector<int32_t> encode(const Pipeline& pipeline, std::string_view text,
                            const EncodeOptions& options);
std::string decode(const Pipeline& pipeline, std::span<const int32_t> ids, bool skip_special);

}  // namespace olm::nn::bpe
