#include <queue>

#include <olm/nn/text.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn {

namespace bpe {

namespace {

/// A pair of neighbours that could be joined. The queue gives the lowest rank first, then the
/// leftmost.
struct Candidate {
  int32_t rank, id, at, left, right;
  bool operator<(const Candidate& o) const { return std::pair(rank, at) > std::pair(o.rank, o.at); }
};

/// A word as a list of ids in which neighbours are joined.
class Joining {
 public:
  Joining(const Model& model, std::string_view word) : model_(model), nodes_(word.size()) {
    const int32_t n = int32_t(word.size());
    for (int32_t i = 0; i < n; ++i)
      nodes_[size_t(i)] = {model.byte_ids[uint8_t(word[size_t(i)])], i - 1, i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < n; ++i) offer(i);
  }
  void run(std::vector<int32_t>& ids) {
    while (!queue_.empty()) {
      const Candidate c = queue_.top();
      queue_.pop();
      Node& node = nodes_[size_t(c.at)];
      if (node.id != c.left || node.next < 0) continue;  // joined meanwhile
      Node& next = nodes_[size_t(node.next)];
      if (next.id != c.right) continue;
      node.id = c.id;
      next.id = -1;
      node.next = next.next;
      if (node.next >= 0) {
        nodes_[size_t(node.next)].previous = c.at;
        offer(c.at);
      }
      if (node.previous >= 0) offer(node.previous);
    }
    for (int32_t i = 0; i >= 0; i = nodes_[size_t(i)].next) ids.push_back(nodes_[size_t(i)].id);
  }

 private:
  struct Node {
    int32_t id = 0, previous = -1, next = -1;
  };
  void offer(int32_t at) {
    const int32_t left = nodes_[size_t(at)].id;
    const int32_t right = nodes_[size_t(nodes_[size_t(at)].next)].id;
    const auto found = model_.merges.find(pair_key(left, right));
    if (found != model_.merges.end())
      queue_.push({found->second.rank, found->second.id, at, left, right});
  }
  const Model& model_;
  std::vector<Node> nodes_;
  std::priority_queue<Candidate> queue_;
};

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

/// Words seen before and where their ids stand among all.
class WordCache {
 public:
  struct Range {
    size_t begin = 0, length = 0;
  };
  const Range* find(std::string_view word) const {
    const auto at = ranges_.find(word);
    return at == ranges_.end() ? nullptr : &at->second;
  }
  void add(std::string_view word, Range range) {
    if (ranges_.size() < kMaxWords && word.size() <= kMaxLength) ranges_.emplace(word, range);
  }

 private:
  static constexpr size_t kMaxWords = 1 << 20, kMaxLength = 64;
  std::unordered_map<std::string, Range, TextHash, std::equal_to<>> ranges_;
};

}  // namespace

void Model::add_merge(int32_t left, int32_t right, int32_t id) {
  merges[pair_key(left, right)] = {int32_t(merge_list.size()), id};
  merge_list.emplace_back(left, right);
}

void Model::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  require(word.size() < size_t(1) << 31, "bpe tokenizer: a word of ", word.size(), " bytes");
  if (whole_words_first) {
    if (const auto found = words.find(std::string(word)); found != words.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  Joining(*this, word).run(ids);
}

}  // namespace bpe

std::string BpeTokenizer::name() const { return "bpe:" + std::to_string(vocab_size()); }

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, const EncodeOptions&) const {
  bpe::require_utf8("bpe tokenizer", text);
  std::vector<int32_t> ids;
  bpe::WordCache cache;
  auto add_word = [&](std::string_view word) {
    if (const auto* known = cache.find(word)) {
      for (size_t i = 0; i < known->length; ++i) ids.push_back(ids[known->begin + i]);
    } else {
      const size_t begin = ids.size();
      model_->encode_word(word, ids);
      cache.add(word, {begin, ids.size() - begin});
    }
  };
  model_->added.cut(
      text, [&](std::string_view part) { model_->splitter.split(part, add_word); },
      [&](int32_t id) { ids.push_back(id); });
  return ids;
}

int64_t BpeTokenizer::vocab_size() const { return int64_t(model_->tokens.size()); }

std::optional<int32_t> BpeTokenizer::eot_id() const {
  for (const bpe::AddedToken& token : model_->added.all())
    if (token.text == kEndOfText) return token.id;
  return {};
}

std::string_view BpeTokenizer::token_bytes(int32_t id) const {
  require_id(id);
  return model_->tokens[size_t(id)];
}

}  // namespace olm::nn
