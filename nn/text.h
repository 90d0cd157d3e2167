#pragma once
// Tokenizers: text to ids and back.
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <olm/engine/json.h>

namespace olm::nn {

/// The text of the token that stands between documents.
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

/// What encode() does beside the text itself.
struct EncodeOptions {
  bool add_special_tokens = false;  ///< what the post-processor adds: bos, eos
  /// The text may contain special tokens, such as <|endoftext|>, which get their ids. Otherwise
  /// they are text like any other, as a user's must be. Added tokens that are not special are found
  /// in any case.
  bool parse_special_tokens = false;
  /// Where not null, grows by the number of characters (of letters that stand for bytes, in a
  /// byte-level vocabulary) that the vocabulary has no token for, and that are left out, as Hugging
  /// Face's tokenizers does.
  int64_t* dropped = nullptr;
};

/// The ids that have a role.
struct SpecialTokens {
  std::optional<int32_t> bos = {}, eos = {}, pad = {}, unk = {};
  /// Whether add_special_tokens puts bos before a text and eos after it.
  bool adds_bos = false, adds_eos = false;
};

/// Turns text into ids below vocab_size() and ids into the bytes they stand for. Immutable, hence
/// safe to use from several threads.
class OLM_API Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// What `train_tokenizer` makes such a one from: "byte", "char", "bpe:4096".
  virtual std::string name() const = 0;
  /// Throws Error with the byte offset of what the tokenizer cannot take.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const = 0;
  virtual int64_t vocab_size() const = 0;
  /// The fewest rows of an embedding that take what encode() gives of a text whose special tokens
  /// are not parsed, and the ids of special(): the last ids may be of special tokens alone.
  virtual int64_t min_rows() const { return vocab_size(); }
  /// True where every character is encoded by itself, so that a text may be cut between any two.
  virtual bool takes_pieces() const { return false; }
  /// The id of <|endoftext|>, where the vocabulary has it.
  virtual std::optional<int32_t> eot_id() const = 0;
  /// Where nothing else is said, eot_id() is eos.
  virtual SpecialTokens special() const { return {.eos = eot_id()}; }
  /// The bytes of one token where it stands amid a text; a special token is its own text. Throws if
  /// `id` is out of range.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  /// What `save` stores.
  virtual Json to_json() const = 0;

  /// The text of all tokens in turn, without the special ones where asked for. For byte and
  /// character tokenizers the bytes, which are UTF-8 if the ids came from UTF-8; for BPE what the
  /// decoder of tokenizer.json makes of them, where bytes that are not UTF-8 become U+FFFD.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;
  /// Writes tokenizer.json: for BPE the format of Hugging Face's tokenizers, for the others a JSON
  /// object with a "type".
  void save(const std::string& path) const;
  /// Names this very tokenizer: equal hashes mean equal ids.
  std::string hash() const;

 protected:
  /// Throws unless `id` is one of this tokenizer's.
  void require_id(int32_t id) const;
};

/// Reads a vocabulary: tokenizer.json, vocab.json with merges.txt beside it, tiktoken's ranks,
/// tekken.json, SentencePiece's tokenizer.model of type BPE, a GGUF file, or the one of these in
/// the folder `path`; with tokenizer_config.json and special_tokens_map.json beside it. Throws
/// FileError.
OLM_API std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path);
/// The same from the text itself; errors name `what`.
OLM_API std::shared_ptr<const Tokenizer> load_tokenizer_from_text(
    std::string_view json, const std::string& what = "tokenizer.json");
/// Makes the tokenizer that `spec` names from texts: "byte", "char" or "bpe:N" (N ids in all). Of
/// several texts, each is a document: a character tokenizer then knows <|endoftext|> as well.
OLM_API std::shared_ptr<const Tokenizer> train_tokenizer(const std::string& spec,
                                                         std::span<const std::string_view> texts);
/// Throws unless `spec` is one that train_tokenizer takes.
OLM_API void require_tokenizer_spec(const std::string& spec);

/// One id per byte, and 256 for <|endoftext|>. Takes any bytes.
class OLM_API ByteTokenizer final : public Tokenizer {
 public:
  std::string name() const override { return "byte"; }
  std::vector<int32_t> encode(std::string_view text,
                              const EncodeOptions& options = {}) const override;
  int64_t vocab_size() const override { return 257; }
  bool takes_pieces() const override { return true; }
  std::optional<int32_t> eot_id() const override { return 256; }
  std::string_view token_bytes(int32_t id) const override;
  Json to_json() const override;
};

/// One id per code point of a text, in the order of the code points; <|endoftext|> behind them
/// where asked for.
class OLM_API CharTokenizer final : public Tokenizer {
 public:
  /// The characters of `texts`, but for a byte-order mark at the start of one. Throws for text that
  /// is not UTF-8, with the offset.
  static CharTokenizer train(std::span<const std::string_view> texts, bool end_of_text = false);
  /// `characters` in the order of their ids; each comes once.
  explicit CharTokenizer(std::u32string characters, bool end_of_text = false);

  std::string name() const override { return "char"; }
  /// Throws for a character that is not in the vocabulary.
  std::vector<int32_t> encode(std::string_view text,
                              const EncodeOptions& options = {}) const override;
  int64_t vocab_size() const override { return int64_t(tokens_.size()); }
  bool takes_pieces() const override { return true; }
  std::optional<int32_t> eot_id() const override;
  std::string_view token_bytes(int32_t id) const override;
  Json to_json() const override;

 private:
  std::u32string characters_;
  bool end_of_text_ = false;
  std::vector<std::string> tokens_;
  std::array<int32_t, 128> ascii_{};
  std::unordered_map<char32_t, int32_t> ids_;
};

namespace bpe {
struct Pipeline;
}

/// Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) with all that stands around it in a
/// tokenizer.json of Hugging Face's tokenizers, with equal ids: added tokens are found, text is
/// normalised and cut into words, and in each word the pair of lowest rank is joined until none is
/// left; a template adds bos and eos. Truncation and padding are kept in the JSON but not applied.
class OLM_API BpeTokenizer final : public Tokenizer {
 public:
  /// Learns ids 257 … vocab_size - 1 from the words of `texts`: the most frequent pair first, of
  /// equal ones that of smaller ids. 0 … 255 are the bytes, 256 is <|endoftext|>. A text with fewer
  /// pairs that come twice gives a smaller vocabulary. Words are cut as in GPT-2.
  static BpeTokenizer train(std::span<const std::string_view> texts, int64_t vocab_size);
  /// Reads the JSON of Hugging Face's tokenizers. Throws Error naming the path of what is wrong or
  /// not known here: "$.pre_tokenizer.pretokenizers[1].type".
  static BpeTokenizer from_json(const Json& json);

  /// This one with those ids of `special` that are set, as tokenizer_config.json names them.
  /// Whether bos and eos are added stays what the post-processor of tokenizer.json says.
  BpeTokenizer with_special(const SpecialTokens& special) const;

  std::string name() const override;
  std::vector<int32_t> encode(std::string_view text,
                              const EncodeOptions& options = {}) const override;
  int64_t vocab_size() const override;
  int64_t min_rows() const override;
  /// The id of <|endoftext|>; else eos, where with_special named it.
  std::optional<int32_t> eot_id() const override;
  /// Where with_special did not set one: bos and eos of the post-processor, unk of the model, pad
  /// of the padding.
  SpecialTokens special() const override;
  std::string_view token_bytes(int32_t id) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const override;
  /// Equal to the JSON that from_json read.
  Json to_json() const override;
  /// The id of a token by its text in tokenizer.json: added tokens first, then the vocabulary.
  std::optional<int32_t> id_of(std::string_view token) const;

 private:
  explicit BpeTokenizer(std::shared_ptr<const bpe::Pipeline> pipeline)
      : pipeline_(std::move(pipeline)) {}
  std::shared_ptr<const bpe::Pipeline> pipeline_;
  SpecialTokens special_ = {};
};

/// tokenizer.json of Hugging Face's tokenizers, which gives equal ids: a BPE tokenizer's own; for a
/// byte or character tokenizer that of a vocabulary without merges, where <|endoftext|> is a
/// special token. A character vocabulary leaves unknown characters out there. Throws Error for
/// other tokenizers.
OLM_API Json hugging_face_json(const Tokenizer& tokenizer);

/// Turns a stream of ids that continues a text into a stream of valid UTF-8: bytes of a character
/// wait until it is complete, bytes that can be part of none become U+FFFD.
class OLM_API StreamDecoder {
 public:
  /// `tokenizer` outlives this object.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  /// The text that `id` completes; may be empty.
  std::string push(int32_t id);
  /// What still waits, as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string waiting_;
};

}  // namespace olm::nn
