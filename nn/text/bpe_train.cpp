#include <algorithm>
#include <queue>

#include <olm/engine/utf8.h>
#include <olm/nn/text.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn {

namespace {

/// Longer words are cut for counting: they are no words of a language, and joining within a word
/// costs its length.
constexpr size_t kLongestWord = 64;
/// A pair that comes once is no pattern.
constexpr int64_t kSmallestCount = 2;

struct Word {
  std::vector<int32_t> ids;
  int64_t count = 0;
};

/// The different words of all texts, in the order of their bytes.
std::vector<Word> count_words(const bpe::Splitter& splitter,
                              std::span<const std::string_view> texts) {
  std::unordered_map<std::string_view, int64_t> counts;
  for (const std::string_view given : texts) {
    const std::string_view text = without_byte_order_mark(given);
    bpe::require_utf8("bpe tokenizer", text);
    splitter.split(text, [&](std::string_view word) {
      for (; word.size() > kLongestWord; word.remove_prefix(kLongestWord))
        ++counts[word.substr(0, kLongestWord)];
      ++counts[word];
    });
  }
  std::vector<std::pair<std::string_view, int64_t>> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Word> words;
  for (const auto& [text, count] : sorted) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    words.push_back({std::vector<int32_t>(bytes, bytes + text.size()), count});
  }
  return words;
}

/// How often each pair of neighbours comes, kept up while pairs are joined.
class PairCounts {
 public:
  explicit PairCounts(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) add(w, [](uint64_t) { return true; });
    for (const auto& [key, pair] : pairs_) queue_.push({pair.count, key});
  }
  /// The most frequent pair; of equal ones that of smaller ids. False where none comes twice.
  bool best(uint64_t& key) {
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      queue_.pop();
      const int64_t count = pairs_.at(top.key).count;
      key = top.key;
      if (count == top.count) return count >= kSmallestCount;
      if (count >= kSmallestCount) queue_.push({count, key});  // it came less often meanwhile
    }
    return false;
  }
  /// Joins every occurrence of the pair `key` into `id`.
  void join(uint64_t key, int32_t id) {
    std::vector<int32_t> where = std::move(pairs_.at(key).words);
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    std::vector<uint64_t> grown;
    for (const int32_t w : where) {
      Word& word = words_[size_t(w)];
      for_pairs(word, [&](uint64_t pair) { pairs_.at(pair).count -= word.count; });
      join_in(word.ids, key, id);
      add(size_t(w), [&](uint64_t pair) {
        const bool made = int32_t(pair >> 32) == id || int32_t(uint32_t(pair)) == id;
        if (made) grown.push_back(pair);
        return made;
      });
    }
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const uint64_t pair : grown) queue_.push({pairs_.at(pair).count, pair});
  }

 private:
  struct Pair {
    int64_t count = 0;
    std::vector<int32_t> words;  // those that hold it, or held it once
  };
  struct Entry {
    int64_t count;
    uint64_t key;
    bool operator<(const Entry& o) const {
      return count != o.count ? count < o.count : key > o.key;
    }
  };
  template <class Use>
  static void for_pairs(const Word& word, Use&& use) {
    for (size_t i = 0; i + 1 < word.ids.size(); ++i)
      use(bpe::pair_key(word.ids[i], word.ids[i + 1]));
  }
  /// Counts the pairs of a word; notes the word at those for which `is_new` holds.
  template <class IsNew>
  void add(size_t w, IsNew&& is_new) {
    for_pairs(words_[w], [&](uint64_t key) {
      Pair& pair = pairs_[key];
      pair.count += words_[w].count;
      if (is_new(key) && (pair.words.empty() || pair.words.back() != int32_t(w)))
        pair.words.push_back(int32_t(w));
    });
  }
  static void join_in(std::vector<int32_t>& ids, uint64_t key, int32_t id) {
    size_t kept = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool here = i + 1 < ids.size() && bpe::pair_key(ids[i], ids[i + 1]) == key;
      ids[kept++] = here ? id : ids[i];
      i += here;
    }
    ids.resize(kept);
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Entry> queue_;
};

}  // namespace

BpeTokenizer BpeTokenizer::train(std::span<const std::string_view> texts, int64_t vocab_size) {
  require(vocab_size >= 257, "bpe tokenizer: ", vocab_size, " ids, at least 257 were wanted");
  auto model = std::make_shared<bpe::Model>(bpe::kGpt2Pattern);
  for (int byte = 0; byte < 256; ++byte) {
    model->byte_ids[byte] = byte;
    model->tokens.emplace_back(1, char(byte));
  }
  model->added.add({.text = std::string(kEndOfText), .id = 256});
  model->tokens.emplace_back(kEndOfText);
  std::unordered_map<std::string, int32_t> ids;
  PairCounts pairs(count_words(model->splitter, texts));
  uint64_t key = 0;
  while (int64_t(model->tokens.size()) < vocab_size && pairs.best(key)) {
    const int32_t left = int32_t(key >> 32), right = int32_t(uint32_t(key));
    std::string token = model->tokens[size_t(left)] + model->tokens[size_t(right)];
    // Two ways to the same bytes share one id: a vocabulary holds each token once.
    const auto [at, is_new] = ids.emplace(token, int32_t(model->tokens.size()));
    if (is_new) model->tokens.push_back(std::move(token));
    model->add_merge(left, right, at->second);
    pairs.join(key, at->second);
  }
  return BpeTokenizer(std::move(model));
}

}  // namespace olm::nn
