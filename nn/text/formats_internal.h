#pragma once
// Vocabularies of other formats. Each is turned into the JSON of a tokenizer.json, which alone is
// read, and the ids that have a role.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <olm/engine/gguf.h>
#include <olm/nn/text.h>

namespace olm::nn::formats {

/// A vocabulary as the JSON of a tokenizer.json, and what that cannot say.
struct Vocabulary {
  Json tokenizer = {};
  SpecialTokens special = {};
  std::vector<int32_t> stop = {};  ///< of GGUF alone: ids that end a text, eos among them
  std::string chat_template = {};  ///< of GGUF alone, as it was; "" for none
};

/// The tokenizer of a vocabulary. Throws Error.
std::shared_ptr<const Tokenizer> make_tokenizer(const Vocabulary& vocabulary);

/// A tokenizer.json of this library or of Hugging Face (nn/text/tokenizer.cpp).
std::shared_ptr<const Tokenizer> own_tokenizer(const Json& json);

// ---- files: each throws Error, without the file's name ------------------------------------------

/// GPT-2's vocab.json (token to id) and merges.txt.
Vocabulary read_vocab_and_merges(std::string_view vocab, std::string_view merges);

/// What a tiktoken file does not say: the expression that cuts words, and the special tokens, which
/// have ids of their own.
struct TiktokenScheme {
  std::string pattern = {};
  std::vector<std::pair<std::string, int32_t>> special = {};
  std::string bos = {}, eos = {};  ///< texts of special tokens; "" for none
  bool adds_bos = false;
  bool composes = false;  ///< text is brought to NFC first
};
/// Schemes by name: r50k_base, cl100k_base, o200k_base, llama3, qwen, qwen3_6; throws naming them
/// for any other.
TiktokenScheme tiktoken_scheme(const std::string& name);
/// The scheme whose name is in `path`, or whose number of ranks is `ranks`; throws where none is.
TiktokenScheme tiktoken_scheme_of(const std::string& path, size_t ranks);
/// Tokens in the order of their ranks, which count from 0 without holes.
std::vector<std::string> read_ranks(std::string_view text);
bool looks_like_ranks(std::string_view text);
Vocabulary read_tiktoken(const std::vector<std::string>& ranks, const TiktokenScheme& scheme);

/// Mistral's tekken.json.
Vocabulary read_tekken(const Json& json);

/// SentencePiece's tokenizer.model, of type BPE.
Vocabulary read_sentencepiece(std::string_view bytes);
bool looks_like_sentencepiece(std::string_view bytes);

// ---- tokenizer_config.json ----------------------------------------------------------------------

/// Adds what tokenizer_config.json and special_tokens_map.json (null where missing) say: ids of
/// bos, eos, unk and pad, and added tokens that the vocabulary lacks. Whether bos and eos are
/// added, and the flags of added tokens (rstrip, …), are taken from there where `sets_template` is
/// set: a tokenizer.json says both itself.
void apply_tokenizer_config(const Json& config, const Json& special_map, bool sets_template,
                            Vocabulary& vocabulary);
/// tokenizer_config.json: `before` (null, or what the vendor wrote) with all that is known brought
/// up to date. `context` is the largest number of tokens.
Json tokenizer_config_json(const Tokenizer& tokenizer, int64_t context, const Json& before);
/// A sentence where transformers will read this tokenizer as another one, since it belongs to a
/// model of this model_type; "" otherwise.
std::string tokenizer_warning(const std::string& model_type, const Tokenizer& tokenizer);

// ---- GGUF ---------------------------------------------------------------------------------------

/// The tokenizer.ggml.* of a file. Throws FileError naming key and value for a kind or a
/// pre-tokenizer that is not read.
Vocabulary read_gguf_vocabulary(const GgufFile& file);
/// Writes tokenizer.ggml.*, with padding tokens up to `rows`. Returns sentences on what llama.cpp
/// will do otherwise. Throws Error for what it cannot do, with the expression where that has no
/// name.
std::vector<std::string> write_vocabulary(const Tokenizer& tokenizer, int64_t rows,
                                          std::string_view chat_template, GgufWriter& writer);

/// Steps that are no expressions: ByteLevel's own, and Digits one by one.
inline const std::string kGpt2Step = "<gpt2>", kDigitsStep = "<digits>";
/// What a name in tokenizer.ggml.pre stands for.
struct PreTokenizer {
  const char* name;
  std::vector<std::string> steps;  ///< expressions that isolate words, in turn
  bool whole_words_first = false;  ///< ignore_merges
  bool adds_bos = false;           ///< where the file does not say
  bool composes = false;           ///< the vendor brings text to NFC; llama.cpp does not
};
const std::vector<PreTokenizer>& pre_tokenizers();
/// Null for an unknown name.
const PreTokenizer* pre_tokenizer(std::string_view name);
/// All names that stand for `steps`, the usual first.
std::vector<const PreTokenizer*> pre_tokenizers_of(const std::vector<std::string>& steps);
/// The steps of a pre-tokenizer of tokenizer.json that ends in ByteLevel; empty where it does what
/// no steps do.
std::optional<std::vector<std::string>> steps_of(const Json& pre_tokenizer);

// ---- parts of tokenizer.json --------------------------------------------------------------------

struct Token {
  std::string text = {};  ///< as in tokenizer.json
  int32_t id = 0;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};
/// What a tokenizer.json is made of.
struct Parts {
  std::vector<Token> vocabulary = {};
  std::vector<Token> added = {};
  Json merges = Json::array();
  Json normalizer = {}, pre_tokenizer = {}, decoder = {};
  std::string unk = {};  ///< "" for none
  bool fuse_unk = false, byte_fallback = false, whole_words_first = false;
  std::optional<int32_t> bos = {}, eos = {};  ///< that the post-processor adds
};
Json added_json(const Token& token);
/// The post-processor that adds these before and behind a text; null for none. Their texts are
/// looked up in `tokenizer`.
Json template_json(std::optional<int32_t> bos, std::optional<int32_t> eos, const Json& tokenizer);
/// Throws Error for tokens or ids that come twice. Ids without a token get one.
Json to_tokenizer_json(Parts parts);
Json pre_tokenizer_json(const std::vector<std::string>& steps);
Json byte_level_json(bool use_regex);
Json replace_json(const char* kind, const std::string& pattern, const std::string& with);
Json sequence_json(const char* member, std::vector<Json> items);
/// The normaliser and the decoder of SentencePiece's white space: spaces are U+2581, one of which
/// comes before the text where `prefix` is set.
void set_spaces(Parts& parts, bool prefix, bool collapse);

/// "a b" for each pair, or ["a", "b"] where one of them holds a space.
Json merges_json(const std::vector<std::string>& texts,
                 const std::vector<std::pair<int32_t, int32_t>>& pairs);
/// An expression of tiktoken as tokenizer.json says it: there {1,3}+ is a repetition, not
/// possessive. At the end of an alternative the one without + gives the same; throws elsewhere.
std::string without_possessive_counts(std::string pattern);
/// The bytes of base64, padding included; false for other text.
bool decode_base64(std::string_view text, std::string& bytes);
/// Takes the next line off `text`, without its end.
std::string_view next_line(std::string_view& text);
/// Tokens by rank as vocabulary, from `first_id` on, and as merges.
void set_ranks(Parts& parts, const std::vector<std::string>& ranks, int32_t first_id);

/// All pairs of tokens that join to a token: those of tokens that come first in `order` first, as
/// BPE by rank or by score takes them. `order` holds indices into `tokens`, best first; a pair's
/// border lies between two bytes, or between two characters where `characters` is set.
std::vector<std::pair<int32_t, int32_t>> pairs_of(const std::vector<std::string>& tokens,
                                                  const std::vector<int32_t>& order,
                                                  bool characters);

}  // namespace olm::nn::formats
