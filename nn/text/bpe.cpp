#include <algorithm>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn {

namespace bpe {

namespace {

/// Words seen before and where their ids stand among all, in a table of open addressing.
class WordCache {
 public:
  struct Range {
    size_t begin = 0, length = 0;
  };
  const Range* find(std::string_view word, uint64_t hash) const {
    if (word.size() > kMaxLength) return nullptr;
    for (uint64_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.size == 0) return nullptr;
      if (slot.hash == hash && slot.size == word.size() &&
          std::string_view(texts_).substr(slot.text, slot.size) == word)
        return &slot.range;
    }
  }
  void add(std::string_view word, uint64_t hash, Range range) {
    if (count_ >= kMaxWords || word.size() > kMaxLength) return;
    if (++count_ * 2 > slots_.size()) grow();
    put({hash, word.size(), texts_.size(), range});
    texts_ += word;
  }

 private:
  static constexpr size_t kMaxWords = 1 << 20, kMaxLength = 128;
  struct Slot {
    uint64_t hash = 0;
    size_t size = 0, text = 0;
    Range range = {};
  };
  void put(const Slot& slot) {
    uint64_t at = slot.hash & mask_;
    while (slots_[at].size != 0) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
  void grow() {
    std::vector<Slot> before(slots_.size() * 2);
    std::swap(before, slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& slot : before)
      if (slot.size != 0) put(slot);
  }
  std::vector<Slot> slots_ = std::vector<Slot>(64);
  uint64_t mask_ = 63;
  size_t count_ = 0;
  std::string texts_;
};

/// Encodes one text.
class Encoder {
 public:
  explicit Encoder(const Pipeline& pipeline) : pipeline_(pipeline), cutter_(pipeline.steps) {}

  std::vector<int32_t> run(std::string_view text, const EncodeOptions& options) {
    const auto add = [&](const std::vector<int32_t>& ids) {
      if (options.add_special_tokens) ids_.insert(ids_.end(), ids.begin(), ids.end());
    };
    add(pipeline_.before);
    for (const Section& part : pipeline_.literal.cut(text, options.parse_special_tokens)) {
      if (part.id >= 0)
        ids_.push_back(part.id);
      else
        section(text.substr(part.begin, part.end - part.begin), part.begin == 0,
                options.parse_special_tokens);
    }
    add(pipeline_.after);
    if (options.dropped) *options.dropped += dropped_;
    return std::move(ids_);
  }

 private:
  /// What lies between two tokens that are found in the text itself.
  void section(std::string_view text, bool first, bool special) {
    Normalized normalized;
    size_t from_first = 0;
    if (first) from_first = size_t(std::max(decode_utf8(text, 0).length, 1));
    if (!pipeline_.normalizers.empty()) {
      normalized = {std::string(text), from_first};
      const size_t limit = max_grown(text.size());
      for (const Normalizer& one : pipeline_.normalizers) {
        one.apply(normalized);
        require_grown(normalized.text.size(), limit);
      }
      text = normalized.text;
      from_first = normalized.from_first;
    }
    const auto word = [this](std::string_view part) { add_word(part); };
    for (const Section& part : pipeline_.normalized.cut(text, special)) {
      if (part.id >= 0)
        ids_.push_back(part.id);
      else
        cutter_.run(text.substr(part.begin, part.end - part.begin),
                    part.begin < from_first ? std::min(from_first, part.end) - part.begin : 0,
                    word);
    }
  }

  void add_word(std::string_view word) {
    for (size_t at = 0, end; at < word.size(); at = end) {
      end = pipeline_.letters_last ? word.size() : pipeline_.model.next_border(word, at);
      add_part(word.substr(at, end - at));
    }
  }

  void add_part(std::string_view word) {
    const uint64_t hash = hash_of(word);
    const size_t begin = ids_.size();
    if (const auto* known = cache_.find(word, hash)) {
      const WordCache::Range range = *known;
      ids_.resize(begin + range.length);
      std::copy_n(ids_.begin() + ptrdiff_t(range.begin), range.length,
                  ids_.begin() + ptrdiff_t(begin));
      return;
    }
    const int64_t before = dropped_;
    if (pipeline_.letters_last)
      pipeline_.model.encode_word(letters_of_bytes(word), ids_, dropped_);
    else
      pipeline_.model.encode_word(word, ids_, dropped_);
    if (dropped_ == before) cache_.add(word, hash, {begin, ids_.size() - begin});
  }

  const Pipeline& pipeline_;
  WordCutter cutter_;
  WordCache cache_;
  std::vector<int32_t> ids_;
  int64_t dropped_ = 0;
};

}  // namespace

std::vector<int32_t> encode(const Pipeline& pipeline, std::string_view text,
                            const EncodeOptions& options) {
  require_utf8("bpe tokenizer", text);
  return Encoder(pipeline).run(text, options);
}

std::string decode(const Pipeline& pipeline, std::span<const int32_t> ids, bool skip_special) {
  std::vector<std::string> texts;
  for (const int32_t id : ids) {
    const std::string& text = pipeline.text_of(id);
    if (!skip_special || !pipeline.special.contains(text)) texts.push_back(text);
  }
  std::string all;
  if (!pipeline.has_decoder) {  // Hugging Face's tokenizers then puts spaces between tokens
    for (size_t i = 0; i < texts.size(); ++i) all += (i > 0 ? " " : "") + texts[i];
    return all;
  }
  for (const Decoder& decoder : pipeline.decoders) decoder.apply(texts);
  for (const std::string& text : texts) all += text;
  return all;
}

}  // namespace bpe

BpeTokenizer BpeTokenizer::from_json(const Json& json) {
  BpeTokenizer made(bpe::read_pipeline(json));
  made.special_ = made.pipeline_->special_ids;
  return made;
}

BpeTokenizer BpeTokenizer::with_special(const SpecialTokens& special) const {
  for (const auto& id : {special.bos, special.eos, special.pad, special.unk})
    if (id) require_id(*id);
  BpeTokenizer made = *this;
  SpecialTokens& to = made.special_;
  if (special.bos) to.bos = special.bos;
  if (special.eos) to.eos = special.eos;
  if (special.pad) to.pad = special.pad;
  if (special.unk) to.unk = special.unk;
  return made;
}

std::string BpeTokenizer::name() const { return "bpe:" + std::to_string(vocab_size()); }

std::vector<int32_t> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  return bpe::encode(*pipeline_, text, options);
}

int64_t BpeTokenizer::vocab_size() const { return int64_t(pipeline_->model.tokens.size()); }

int64_t BpeTokenizer::min_rows() const {
  std::vector<bool> needed(size_t(vocab_size()), true);
  for (const bpe::AddedToken& token : pipeline_->added)
    if (token.special && pipeline_->model.id_of(token.content) != token.id)
      needed[size_t(token.id)] = false;
  for (const auto* ids : {&pipeline_->before, &pipeline_->after})
    for (const int32_t id : *ids) needed[size_t(id)] = true;
  const SpecialTokens all = special();
  for (const auto& id : {all.bos, all.eos, all.pad, all.unk})
    if (id) needed[size_t(*id)] = true;
  while (!needed.empty() && !needed.back()) needed.pop_back();
  return int64_t(needed.size());
}

std::optional<int32_t> BpeTokenizer::eot_id() const {
  const auto at = pipeline_->added_ids.find(std::string(kEndOfText));
  return at != pipeline_->added_ids.end() ? at->second : special_.eos;
}

SpecialTokens BpeTokenizer::special() const {
  SpecialTokens all = special_;
  if (!all.eos) all.eos = eot_id();
  return all;
}

std::string_view BpeTokenizer::token_bytes(int32_t id) const {
  require_id(id);
  return pipeline_->bytes[size_t(id)];
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  for (const int32_t id : ids) require_id(id);
  return bpe::decode(*pipeline_, ids, skip_special_tokens);
}

Json BpeTokenizer::to_json() const { return bpe::to_json(*pipeline_); }

std::optional<int32_t> BpeTokenizer::id_of(std::string_view token) const {
  if (const auto at = pipeline_->added_ids.find(std::string(token));
      at != pipeline_->added_ids.end())
    return at->second;
  const int32_t id = pipeline_->model.id_of(token);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

}  // namespace olm::nn
