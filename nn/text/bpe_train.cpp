#include <algorithm>
#include <queue>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

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
std::vector<Word> count_words(std::span<const std::string_view> texts) {
  bpe::Matcher matcher(bpe::Regex::of_pcre2(bpe::kGpt2Pattern));
  std::unordered_map<std::string_view, int64_t> counts;
  for (const std::string_view given : texts) {
    const std::string_view text = without_byte_order_mark(given);
    bpe::require_utf8("bpe tokenizer", text);
    bpe::for_matches(matcher, text, [&](size_t begin, size_t end, bool) {
      std::string_view word = text.substr(begin, end - begin);
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
  std::vector<std::string> tokens;  // bytes by id
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, char(byte));
  tokens.emplace_back(kEndOfText);
  std::unordered_map<std::string, int32_t> ids;
  Json merges = Json::array();
  PairCounts pairs(count_words(texts));
  uint64_t key = 0;
  while (int64_t(tokens.size()) < vocab_size && pairs.best(key)) {
    const std::string left = tokens[key >> 32], right = tokens[uint32_t(key)];
    // Two ways to the same bytes share one id: a vocabulary holds each token once.
    const auto [at, is_new] = ids.emplace(left + right, int32_t(tokens.size()));
    if (is_new) tokens.push_back(left + right);
    merges.push_back(bpe::letters_of_bytes(left) + " " + bpe::letters_of_bytes(right));
    pairs.join(key, at->second);
  }
  return from_json(bpe::byte_level_json(tokens, std::move(merges), true));
}

}  // namespace olm::nn
