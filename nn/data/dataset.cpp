#include <algorithm>
#include <charconv>
#include <utility>

#include <olm/engine/safetensors.h>
#include <olm/nn/data.h>

namespace olm::nn {

namespace {

constexpr const char* kFormat = "olm token shard 1";

/// Calls take(ids) for a text, piece by piece where the tokenizer can: beside the ids as they are
/// kept there are then never many more. Counts characters that are left out.
template <class Take>
void encode_text(std::string_view text, const Tokenizer& tokenizer, int64_t& dropped, Take&& take) {
  constexpr size_t kPiece = size_t(1) << 20;
  // A corpus is its owner's: <|endoftext|> in it ends a document. Pieces could cut it in two: to
  // tokenizers that take them it is text.
  const EncodeOptions own_text = {.parse_special_tokens = !tokenizer.takes_pieces(),
                                  .dropped = &dropped};
  if (!tokenizer.takes_pieces()) return take(tokenizer.encode(text, own_text));
  for (size_t at = 0, end; at < text.size(); at = end) {
    end = std::min(text.size(), at + kPiece);
    const auto inside = [&] { return end < text.size() && (uint8_t(text[end]) & 0xc0) == 0x80; };
    for (int i = 0; i < 3 && inside(); ++i) --end;  // to where a character of UTF-8 begins
    std::vector<int32_t> ids;
    try {
      ids = tokenizer.encode(text.substr(at, end - at), own_text);
    } catch (const Error&) {
      ids = tokenizer.encode(text.substr(0, end), own_text);  // throws with the offset in the whole
      throw;
    }
    take(ids);
  }
}

template <class Take>
void encode(const Corpus& corpus, const Tokenizer& tokenizer, int64_t& dropped, Take&& take) {
  const std::vector<std::string_view> texts = corpus.texts();
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) {
      if (!tokenizer.eot_id())
        throw FileError(corpus.path, ": ", corpus.files.size(), " files, and the ",
                        tokenizer.name(), " tokenizer has no ", kEndOfText,
                        " to stand between them");
      take(std::vector<int32_t>{*tokenizer.eot_id()});
    }
    try {
      encode_text(texts[i], tokenizer, dropped, take);
    } catch (const FileError&) {
      throw;
    } catch (const Error& e) {
      const MappedFile& file = *corpus.files[i];
      throw FileError(file.path(), ": ", e.what(),
                      texts[i].size() < file.size() ? ", counted behind the byte-order mark" : "");
    }
  }
}

const std::string& metadata(const SafetensorsFile& file, const std::string& key) {
  const auto at = file.metadata().find(key);
  if (at == file.metadata().end())
    throw FileError(file.path(), ": no token shard: its metadata has no \"", key, "\"");
  return at->second;
}

/// A number of the metadata; nothing where it is missing or no number.
std::optional<int64_t> count_in(const SafetensorsFile& file, const std::string& key) {
  const auto at = file.metadata().find(key);
  if (at == file.metadata().end()) return {};
  int64_t count = 0;
  const char* end = at->second.data() + at->second.size();
  const auto [stop, error] = std::from_chars(at->second.data(), end, count);
  return error == std::errc() && stop == end && count >= 0 ? std::optional(count) : std::nullopt;
}

}  // namespace

TokenDataset::TokenDataset(const std::string& path, const Tokenizer& tokenizer)
    : TokenDataset(Corpus::open(path), tokenizer) {}

TokenDataset::TokenDataset(const Corpus& corpus, const Tokenizer& tokenizer)
    : name_(corpus.path),
      source_hash_(corpus.hash()),
      tokenizer_hash_(tokenizer.hash()),
      vocab_size_(tokenizer.vocab_size()) {
  size_t most = 0;  // ids, where there is one per character; what is not written takes no memory
  for (const auto& file : corpus.files) most += tokenizer.takes_pieces() ? file->size() + 1 : 0;
  collect(most, [&](auto&& take) { encode(corpus, tokenizer, dropped_, take); });
}

TokenDataset TokenDataset::from_ids(std::span<const int32_t> ids, int64_t vocab_size) {
  TokenDataset dataset;
  dataset.vocab_size_ = vocab_size;
  for (const int32_t id : ids)
    require(id >= 0 && id < vocab_size, "dataset: id ", id, " is out of range for ", vocab_size,
            " ids");
  dataset.collect(ids.size(), [&](auto&& take) { take(ids); });
  return dataset;
}

template <class Source>
void TokenDataset::collect(size_t most, Source&& source) {
  width_ = vocab_size_ <= 65536 ? 2 : 4;
  const auto gather = [&]<class T>(T) {
    auto own = std::make_shared<std::vector<T>>();
    own->reserve(most);
    source([&](const auto& ids) { own->insert(own->end(), ids.begin(), ids.end()); });
    end_ = int64_t(own->size());
    ids_ = own->data();
    owner_ = std::move(own);
  };
  if (width_ == 2)
    gather(uint16_t());
  else
    gather(int32_t());
}

TokenDataset TokenDataset::open_shard(const std::string& path) {
  auto file = std::make_shared<SafetensorsFile>(SafetensorsFile::open(path));
  if (metadata(*file, "format") != kFormat)
    throw FileError(path, ": no token shard of a kind known here: its format is \"",
                    metadata(*file, "format"), "\", \"", kFormat, "\" was wanted");
  const SafetensorsEntry& tokens = file->entry("tokens");
  if (tokens.shape.size() != 1 || (tokens.dtype != "U16" && tokens.dtype != "I32"))
    throw FileError(path, ": the tokens of a shard are one row of U16 or I32, these are ",
                    tokens.dtype, " of shape ", tokens.shape_text());
  TokenDataset dataset;
  dataset.name_ = path;
  dataset.source_hash_ = metadata(*file, "source");
  dataset.tokenizer_hash_ = metadata(*file, "tokenizer");
  dataset.vocab_size_ = count_in(*file, "vocab_size").value_or(0);
  if (dataset.vocab_size_ < 1 || dataset.vocab_size_ > int64_t(1) << 31)
    throw FileError(path, ": a token shard with the impossible vocab_size \"",
                    metadata(*file, "vocab_size"), "\"");
  dataset.dropped_ = count_in(*file, "dropped").value_or(0);
  dataset.width_ = tokens.dtype == "U16" ? 2 : 4;
  dataset.ids_ = file->bytes("tokens").data();
  if (reinterpret_cast<uintptr_t>(dataset.ids_) % size_t(dataset.width_) != 0)
    throw FileError(path, ": the tokens of the shard are not aligned to their size");
  dataset.end_ = tokens.shape[0];
  dataset.owner_ = std::move(file);
  return dataset;
}

std::optional<TokenDataset> TokenDataset::find_shard(const std::string& path, const Corpus& corpus,
                                                     const Tokenizer& tokenizer) {
  if (!file_exists(path)) return {};
  try {
    const TokenDataset found = open_shard(path);
    const auto file = std::static_pointer_cast<const SafetensorsFile>(found.owner_);
    if (found.source_hash_ == corpus.hash() && found.tokenizer_hash_ == tokenizer.hash() &&
        found.vocab_size_ == tokenizer.vocab_size() &&
        metadata(*file, "hash") == found.hash_of_ids())
      return found;
  } catch (const FileError&) {  // what is damaged is not found
  }
  return {};
}

std::string TokenDataset::hash_of_ids() const {
  const char* bytes = static_cast<const char*>(ids_) + begin_ * width_;
  return hash_hex({bytes, size_t(size() * width_)});
}

void TokenDataset::write_shard(const std::string& path) const {
  require(ids_ != nullptr, "write_shard: a dataset without ids");
  const auto* bytes = static_cast<const std::byte*>(ids_) + begin_ * width_;
  write_safetensors(
      path, {{"tokens", width_ == 2 ? "U16" : "I32", {size()}, {bytes, size_t(size() * width_)}}},
      {{"dropped", std::to_string(dropped_)},
       {"format", kFormat},
       {"hash", hash_of_ids()},
       {"source", source_hash_},
       {"tokenizer", tokenizer_hash_},
       {"vocab_size", std::to_string(vocab_size_)}});
}

void TokenDataset::read(int64_t begin, int64_t n, int64_t* ids) const {
  require(begin >= 0 && n >= 0 && begin <= size() - n, describe(), ": ids ", begin, " to ",
          begin + n, " were asked for, there are ", size());
  if (width_ == 2)
    std::copy_n(static_cast<const uint16_t*>(ids_) + begin_ + begin, n, ids);
  else
    std::copy_n(static_cast<const int32_t*>(ids_) + begin_ + begin, n, ids);
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= vocab_size_)
      throw FileError(describe(), ": damaged: id ", ids[i], " at position ", begin + i,
                      " of a vocabulary of ", vocab_size_);
}

TokenDataset TokenDataset::slice(int64_t begin, int64_t end) const {
  require(0 <= begin && begin <= end && end <= size(), describe(), ": the part from ", begin,
          " to ", end, " of ", size(), " ids");
  TokenDataset part = *this;
  part.begin_ = begin_ + begin;
  part.end_ = begin_ + end;
  part.name_ = detail::concat(name_, " [", begin, ", ", end, ")");
  return part;
}

std::string TokenDataset::describe() const { return name_; }

std::pair<TokenDataset, TokenDataset> split(const TokenDataset& dataset, double fraction) {
  require(fraction >= 0 && fraction <= 1, "split: a fraction of ", fraction,
          ", from 0 to 1 was wanted");
  const auto cut = int64_t(fraction * double(dataset.size()));
  return {dataset.slice(0, cut), dataset.slice(cut, dataset.size())};
}

}  // namespace olm::nn
