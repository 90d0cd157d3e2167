#pragma once
// Data: from text on disk to token ids to batches.
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <olm/engine/file.h>
#include <olm/engine/tensor.h>
#include <olm/nn/context.h>
#include <olm/nn/text.h>

namespace olm::nn {

/// True for a folder in which save() or a Trainer has written: with a model.json or a checkpoint of
/// libolm in it.
OLM_API bool is_run_folder(const std::string& folder);

/// The text of a file, or of all files below a folder in sorted order. Empty files, run folders
/// (see is_run_folder()) and tokenizers called tokenizer.json are left out, so that a run that
/// writes below its data resumes with the text it began with.
struct OLM_API Corpus {
  /// Throws FileError if `path` is missing, holds no text, or is itself the folder of a run.
  static Corpus open(const std::string& path);
  std::string path;
  std::vector<std::shared_ptr<const MappedFile>> files;
  /// The run folders and tokenizers that were left out, in sorted order.
  std::vector<std::string> left_out;
  /// Links to folders, in sorted order: they are not followed, since they may lead back or away.
  std::vector<std::string> links;
  /// The texts of the files, which stay mapped as long as `files` lives. A byte-order mark at the
  /// start of a file is no part of its text.
  std::vector<std::string_view> texts() const;
  /// Names the bytes of these texts in this order.
  std::string hash() const;
};

/// A sequence of ids, in memory or in a mapped shard. Copies share the ids.
class OLM_API TokenDataset {
 public:
  TokenDataset() = default;
  /// Encodes text; <|endoftext|> stands between two files. What the tokenizer refuses is a
  /// FileError naming the file and the offset in it.
  TokenDataset(const std::string& path, const Tokenizer& tokenizer);
  TokenDataset(const Corpus& corpus, const Tokenizer& tokenizer);
  static TokenDataset from_ids(std::span<const int32_t> ids, int64_t vocab_size);
  /// Maps a shard that write_shard made. Throws FileError for anything else.
  static TokenDataset open_shard(const std::string& path);
  /// The shard at `path` if there is one, it is whole, and write_shard made it from this text and
  /// this tokenizer: all its ids are read to see that.
  static std::optional<TokenDataset> find_shard(const std::string& path, const Corpus& corpus,
                                                const Tokenizer& tokenizer);

  /// Writes the ids as a safetensors file of one tensor, "tokens", with their hash and those of
  /// text and tokenizer in its metadata. The file appears whole or not at all.
  void write_shard(const std::string& path) const;
  int64_t size() const { return end_ - begin_; }
  int64_t vocab_size() const { return vocab_size_; }
  /// Characters of the text that encoding left out, as the vocabulary has no token for them; see
  /// EncodeOptions. 0 for ids that were encoded elsewhere.
  int64_t dropped() const { return dropped_; }
  /// Copies ids [begin, begin + n). Throws for ids outside the vocabulary, as a damaged shard has.
  void read(int64_t begin, int64_t n, int64_t* ids) const;
  /// The part [begin, end).
  TokenDataset slice(int64_t begin, int64_t end) const;
  /// For messages: the path, and the part of it.
  std::string describe() const;
  /// Hashes of the text and of the tokenizer; empty for ids from memory.
  const std::string& source_hash() const { return source_hash_; }
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }

 private:
  /// Keeps the ids that `source` hands to what it is called with; at most so many, or 0: unknown.
  template <class Source>
  void collect(size_t most, Source&& source);
  std::string hash_of_ids() const;
  std::string name_ = "ids in memory", source_hash_, tokenizer_hash_;
  std::shared_ptr<const void> owner_;  // keeps ids_ alive
  const void* ids_ = nullptr;
  int width_ = 4;  // bytes per id: 2 (unsigned) or 4
  int64_t begin_ = 0, end_ = 0, vocab_size_ = 0, dropped_ = 0;
};

/// The first int(fraction · size) ids, and the others.
OLM_API std::pair<TokenDataset, TokenDataset> split(const TokenDataset& dataset, double fraction);

/// Windows of `context` ids, and for each id the one that follows.
struct Batch {
  Tensor inputs;   ///< [B,T] i64
  Tensor targets;  ///< [B,T] i64: inputs shifted by one
  int64_t step = 0;
};

/// Sets ctx.documents and ctx.positions for sequences of several packed documents, each of which
/// ends with the id `end_of_text`. Positions begin at 0 in every document, so that its tokens are
/// computed as if it stood alone.
///   ids: [B,T] of i32 or i64, read on the host
/// The results go to `device`, ids' own if not given: ids that are not there yet need not come
/// back.
OLM_API void set_documents(Context& ctx, const Tensor& ids, int64_t end_of_text,
                           std::optional<Device> device = {});

struct LoaderOptions {
  int64_t batch = 1;    ///< windows of a batch
  int64_t context = 0;  ///< tokens of a window; at least 1
  /// Number of batches. 0: endless with `shuffle`, else one pass, whose last batch may be smaller.
  int64_t steps = 0;
  uint64_t seed = 0;  ///< of the random windows
  /// Random windows; else consecutive ones from the start, over and over.
  bool shuffle = true;
  /// With `shuffle`: each window begins at any of the size - context places, independently of the
  /// others. Else every epoch is a new order of all windows that begin at multiples of `context`.
  bool replacement = true;
};

/// Batches of a dataset. Batch number s depends on the dataset, the options and s alone, so the
/// position is the whole state.
class OLM_API Loader {
 public:
  /// Throws if the dataset has fewer than context + 1 ids.
  Loader(TokenDataset dataset, LoaderOptions options);

  const LoaderOptions& options() const { return options_; }
  const TokenDataset& dataset() const { return dataset_; }
  /// Windows of an epoch: (size - 1) / context.
  int64_t windows() const { return windows_; }
  /// Number of batches given; the next one's step.
  int64_t position() const { return position_; }
  void set_position(int64_t position);
  /// The position, with dataset and options; set_state() throws where those differ. A state without
  /// "starts" is of a run whose random windows never begin at the last place, and keeps that.
  Json state() const;
  void set_state(const Json& state);
  bool done() const { return limit_ > 0 && position_ >= limit_; }
  /// The batch at a position, whatever the loader's is. Throws where there is none.
  Batch at(int64_t position) const;
  /// The batch at the position, which then advances by one. Throws if done().
  Batch next();

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using pointer = Batch*;
    using reference = Batch&;
    explicit Iterator(Loader* loader) : loader_(loader) { ++*this; }
    Batch& operator*() { return batch_; }
    Batch* operator->() { return &batch_; }
    Iterator& operator++() {
      if (loader_->done())
        loader_ = nullptr;
      else
        batch_ = loader_->next();
      return *this;
    }
    bool operator==(std::default_sentinel_t) const { return loader_ == nullptr; }

   private:
    Loader* loader_;
    Batch batch_;
  };
  /// From the position on.
  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  int64_t window_start(int64_t number) const;
  TokenDataset dataset_;
  LoaderOptions options_;
  uint64_t seed_ = 0;
  int64_t windows_ = 0, starts_ = 0, limit_ = 0, position_ = 0;
};

}  // namespace olm::nn
