// SentencePiece's tokenizer.model: a message of protocol buffers, of which little is needed. It is
// read here and not by libsentencepiece, which crashes on some damaged files, and tells neither the
// normaliser nor its flags, without which no tokenizer.json can be made. Normalisers other than
// identity are refused: their tables change between versions of SentencePiece and agree with no
// normal form of Unicode (nmt_nfkc differs from Nmt and NFKC in 175 characters).
#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_set>

#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

/// A field of a message: a number (varint or fixed), or bytes.
struct Field {
  uint32_t number = 0, wire = 0;
  uint64_t value = 0;
  std::string_view bytes = {};
};

/// The fields of a message in turn. Throws Error where it is cut short or has a wire type that
/// SentencePiece does not use.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field = {.number = uint32_t(key >> 3), .wire = uint32_t(key & 7)};
    require(key >> 3 > 0 && key >> 3 < 1u << 29, "a field with the number ", key >> 3);
    switch (field.wire) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        field.value = fixed(8);
        return true;
      case 2:
        field.bytes = take(varint());
        return true;
      case 5:
        field.value = fixed(4);
        return true;
      default:
        fail("a field of wire type ", field.wire);
    }
  }

 private:
  std::string_view take(uint64_t count) {
    require(count <= rest_.size(), "the file ends in the middle of a field");
    const std::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return bytes;
  }
  uint64_t fixed(size_t count) {
    uint64_t value = 0;
    const std::string_view bytes = take(count);
    for (size_t i = count; i-- > 0;) value = value << 8 | uint8_t(bytes[i]);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = uint8_t(take(1)[0]);
      value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than 64 bits");
  }
  std::string_view rest_;
};

enum PieceType : uint64_t { normal = 1, unknown, control, user_defined, unused, byte };

struct Piece {
  std::string text;
  float score = 0;
  uint64_t type = normal;
};

/// What is read of the file, with SentencePiece's defaults.
struct Model {
  std::vector<Piece> pieces;
  uint64_t type = 1;  // Unigram
  bool byte_fallback = false, space_as_suffix = false;
  bool prefix = true, collapse = true, escape = true;
  std::string unk = "<unk>", bos = "<s>", eos = "</s>", pad = "<pad>", normalizer;
  bool has_charsmap = false;
};

Piece read_piece(std::string_view bytes) {
  Piece piece;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1 && field.wire == 2) piece.text = field.bytes;
    if (field.number == 2 && field.wire == 5)
      piece.score = std::bit_cast<float>(uint32_t(field.value));
    if (field.number == 3 && field.wire == 0) piece.type = field.value;
  }
  bpe::require_utf8("a piece", piece.text);
  require(!piece.text.empty(), "an empty piece");
  require(std::isfinite(piece.score), "the piece \"", piece.text, "\" has no finite score");
  require(piece.type >= normal && piece.type <= byte, "the piece \"", piece.text, "\" is of type ",
          piece.type);
  return piece;
}

void read_trainer(std::string_view bytes, Model& model) {
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.wire == 0) {
      if (field.number == 3) model.type = field.value;
      if (field.number == 24) model.space_as_suffix = field.value != 0;
      if (field.number == 35) model.byte_fallback = field.value != 0;
    } else if (field.wire == 2) {
      if (field.number == 45) model.unk = field.bytes;
      if (field.number == 46) model.bos = field.bytes;
      if (field.number == 47) model.eos = field.bytes;
      if (field.number == 48) model.pad = field.bytes;
    }
  }
}

void read_normalizer(std::string_view bytes, Model& model) {
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.wire == 2) {
      if (field.number == 1) model.normalizer = field.bytes;
      if (field.number == 2) model.has_charsmap = !field.bytes.empty();
    } else if (field.wire == 0) {
      if (field.number == 3) model.prefix = field.value != 0;
      if (field.number == 4) model.collapse = field.value != 0;
      if (field.number == 5) model.escape = field.value != 0;
    }
  }
}

Model read_model(std::string_view bytes) {
  Model model;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.wire != 2) continue;
    if (field.number == 1) model.pieces.push_back(read_piece(field.bytes));
    if (field.number == 2) read_trainer(field.bytes, model);
    if (field.number == 3) read_normalizer(field.bytes, model);
  }
  return model;
}

void require_supported(const Model& model) {
  static const char* const kTypes[] = {"0", "Unigram", "BPE", "word", "char"};
  require(!model.pieces.empty(), "a SentencePiece model without pieces");
  require(model.type == 2, "a SentencePiece model of type ",
          model.type < 5 ? kTypes[model.type] : "unknown", ", BPE was wanted");
  require(!model.has_charsmap, "SentencePiece's normaliser \"", model.normalizer,
          "\" is not supported, identity was wanted");
  require(!model.space_as_suffix, "treat_whitespace_as_suffix is not supported");
  require(model.escape, "a SentencePiece model without escape_whitespaces is not supported");
}

/// Merges: the joined pieces in the order of their scores.
void set_merges(Parts& parts, const std::vector<Piece>& pieces) {
  std::vector<std::string> texts;
  std::vector<int32_t> order;
  std::unordered_set<std::string_view> unused_pieces;
  for (size_t id = 0; id < pieces.size(); ++id) {
    texts.push_back(pieces[id].text);
    const uint64_t type = pieces[id].type;
    if (type == unused) unused_pieces.insert(pieces[id].text);
    if (type == normal || type == user_defined || type == unused) order.push_back(int32_t(id));
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return pieces[size_t(a)].score > pieces[size_t(b)].score;
  });
  const auto pairs = pairs_of(texts, order, true);
  // SentencePiece joins the parts of such a piece and takes it apart again at the end.
  if (!unused_pieces.empty())
    for (const auto& [left, right] : pairs) {
      const std::string joined = texts[size_t(left)] + texts[size_t(right)];
      require(!unused_pieces.contains(joined), "the piece \"", joined,
              "\" of type unused, which merges give, is not supported");
    }
  parts.merges = merges_json(texts, pairs);
}

}  // namespace

bool looks_like_sentencepiece(std::string_view bytes) {
  // The first field is a piece: its key, its length, and the key of its text.
  return bytes.size() > 4 && bytes[0] == '\x0a' && bytes[2] == '\x0a';
}

Vocabulary read_sentencepiece(std::string_view bytes) {
  const Model model = read_model(bytes);
  require_supported(model);
  Vocabulary vocabulary;
  Parts parts;
  const std::string space = "\xe2\x96\x81";
  SpecialTokens& special = vocabulary.special;
  for (size_t at = 0; at < model.pieces.size(); ++at) {
    const Piece& piece = model.pieces[at];
    const int32_t id = int32_t(at);
    parts.vocabulary.push_back({.text = piece.text, .id = id});
    const bool is_special = piece.type == control || piece.type == unknown;
    // Runs of spaces that the user defined come out of merges: in the text they are spaces.
    if (is_special || (piece.type == user_defined && piece.text.find(space) == piece.text.npos))
      parts.added.push_back({.text = piece.text, .id = id, .special = is_special});
    if (piece.type == unknown) {
      require(!special.unk, "the pieces \"", parts.unk, "\" and \"", piece.text,
              "\" are both of type unknown");
      parts.unk = piece.text;
      special.unk = id;
    }
    if (piece.type != control) continue;
    if (piece.text == model.bos) special.bos = id;
    if (piece.text == model.eos) special.eos = id;
    if (piece.text == model.pad) special.pad = id;
  }
  require(special.unk.has_value(), "no piece is of type unknown");
  set_merges(parts, model.pieces);
  set_spaces(parts, model.prefix, model.collapse);
  parts.fuse_unk = true;
  parts.byte_fallback = model.byte_fallback;
  parts.bos = special.bos;
  special.adds_bos = parts.bos.has_value();
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

}  // namespace olm::nn::formats
