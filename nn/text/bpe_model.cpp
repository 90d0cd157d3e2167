#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <queue>

#include <olm/engine/utf8.h>
#include <olm/kernels/base/error.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn::bpe {

namespace {

constexpr char32_t kSpace = 0x2581;
constexpr std::string_view kSpaceText = "\xe2\x96\x81";
/// Up to so many symbols the least rank is looked for from end to end.
constexpr size_t kShortWord = 40;

/// Joins neighbours while any pair has a rank: the least first, of equal ones the leftmost.
void join_short(const MergeTable& merges, std::vector<int32_t>& symbols) {
  MergeTable::Merge next[kShortWord];
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) next[i] = merges.find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; ++i)
      if (next[i].rank >= 0 && (best == n || next[i].rank < next[best].rank)) best = i;
    if (best == n) break;
    symbols[best] = next[best].id;
    --n;
    for (size_t i = best + 1; i < n; ++i) symbols[i] = symbols[i + 1], next[i - 1] = next[i];
    if (best + 1 < n) next[best] = merges.find(symbols[best], symbols[best + 1]);
    if (best > 0) next[best - 1] = merges.find(symbols[best - 1], symbols[best]);
  }
  symbols.resize(n);
}

/// The same for a word of any length, with a queue.
class Joining {
 public:
  Joining(const MergeTable& merges, const std::vector<int32_t>& symbols)
      : merges_(merges), nodes_(symbols.size()) {
    const int32_t n = int32_t(symbols.size());
    for (int32_t i = 0; i < n; ++i)
      nodes_[size_t(i)] = {symbols[size_t(i)], i - 1, i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < n; ++i) offer(i);
  }
  void run(std::vector<int32_t>& symbols) {
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
    symbols.clear();
    for (int32_t i = 0; i >= 0; i = nodes_[size_t(i)].next) symbols.push_back(nodes_[size_t(i)].id);
  }

 private:
  struct Candidate {
    int32_t rank, id, at, left, right;
    bool operator<(const Candidate& o) const {
      return std::pair(rank, at) > std::pair(o.rank, o.at);
    }
  };
  struct Node {
    int32_t id = 0, previous = -1, next = -1;
  };
  void offer(int32_t at) {
    const int32_t left = nodes_[size_t(at)].id;
    const int32_t right = nodes_[size_t(nodes_[size_t(at)].next)].id;
    const MergeTable::Merge found = merges_.find(left, right);
    if (found.rank >= 0) queue_.push({found.rank, found.id, at, left, right});
  }
  const MergeTable& merges_;
  std::vector<Node> nodes_;
  std::priority_queue<Candidate> queue_;
};

char32_t first_character(const std::string& text) {
  return text.empty() ? 0 : decode_utf8(text, 0).code;
}

char32_t last_character(std::string_view text) {
  size_t at = text.size();
  while (at > 0 && (uint8_t(text[--at]) & 0xc0) == 0x80) {}
  return text.empty() ? 0 : decode_utf8(text, at).code;
}

}  // namespace

uint64_t hash_of(std::string_view text) {
  uint64_t hash = text.size();
  for (; text.size() >= 8; text.remove_prefix(8)) {
    uint64_t part;
    std::memcpy(&part, text.data(), 8);
    hash = mix(hash ^ part);
  }
  uint64_t part = 0;
  if (!text.empty()) std::memcpy(&part, text.data(), text.size());
  return mix(mix(hash ^ part));
}

void MergeTable::reserve(size_t count) {
  slots_.assign(std::bit_ceil(count * 2 + 2), Slot{});
  mask_ = slots_.size() - 1;
}

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = pair_key(left, right);
  uint64_t at = mix(key) & mask_;
  while (slots_[at].key != kFree && slots_[at].key != key) at = (at + 1) & mask_;
  slots_[at] = {key, merge};
}

void TextTable::reserve(size_t count) {
  ids_.assign(std::bit_ceil(count * 2 + 2), -1);
  mask_ = ids_.size() - 1;
}

bool TextTable::add(const std::vector<std::string>& texts, int32_t id) {
  uint64_t at = hash_of(texts[size_t(id)]) & mask_;
  for (; ids_[at] >= 0; at = (at + 1) & mask_)
    if (texts[size_t(ids_[at])] == texts[size_t(id)]) return false;
  ids_[at] = id;
  return true;
}

int32_t TextTable::find(const std::vector<std::string>& texts, std::string_view text) const {
  for (uint64_t at = hash_of(text) & mask_;; at = (at + 1) & mask_)
    if (ids_[at] < 0 || texts[size_t(ids_[at])] == text) return ids_[at];
}

void Model::finish() {
  low_.assign(0x3000, -1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    const Utf8Char c = token.empty() ? Utf8Char{} : decode_utf8(token, 0);
    if (c.length == 0 || size_t(c.length) != token.size() || id_of(token) != int32_t(id)) continue;
    if (c.code < low_.size())
      low_[c.code] = int32_t(id);
    else
      high_[c.code] = int32_t(id);
  }
  cuts_at_spaces_ = prefix.empty() && suffix.empty() && !whole_words_first;
  std::vector<bool> stands_for_others(tokens.size());
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    byte_tokens_[byte] = id_of(text);
    if (byte_fallback && byte_tokens_[byte] >= 0)
      stands_for_others[size_t(byte_tokens_[byte])] = true;
  }
  if (has_unk && id_of(unk) >= 0) stands_for_others[size_t(id_of(unk))] = true;
  for (const auto& [left, right] : merge_list) {
    if (stands_for_others[size_t(left)] || stands_for_others[size_t(right)])
      cuts_at_spaces_ = false;  // its characters are not those of the word
    if (first_character(tokens[size_t(right)]) == kSpace)
      before_space_[last_character(tokens[size_t(left)])] = true;
  }
}

size_t Model::next_border(std::string_view word, size_t from) const {
  if (!cuts_at_spaces_) return word.size();
  for (size_t at = from;;) {
    at = word.find(kSpaceText, at + 1);
    if (at == word.npos) return word.size();
    const char32_t before = last_character(word.substr(from, at - from));
    if (id_of_character(before) >= 0 && id_of_character(kSpace) >= 0 &&
        !before_space_.contains(before))
      return at;
  }
}

int32_t Model::id_of_character(char32_t code) const {
  if (code < low_.size()) return low_[code];
  const auto at = high_.find(code);
  return at == high_.end() ? -1 : at->second;
}

bool Model::add_bytes(std::string_view character, std::vector<int32_t>& symbols) const {
  for (const char byte : character)
    if (byte_tokens_[uint8_t(byte)] < 0) return false;
  for (const char byte : character) symbols.push_back(byte_tokens_[uint8_t(byte)]);
  return true;
}

void Model::add_symbols(std::string_view word, std::vector<int32_t>& symbols,
                        int64_t& dropped) const {
  const bool plain = prefix.empty() && suffix.empty();
  int32_t waiting = -1;  // an unknown token, which the next unknown character may join
  std::string with;
  for (size_t at = 0; at < word.size();) {
    const Utf8Char c = decode_utf8(word, at);
    std::string_view character = word.substr(at, size_t(std::max(c.length, 1)));
    int32_t id = -1;
    if (plain) {
      id = id_of_character(c.code);
    } else {
      with.assign(at > 0 ? prefix : "").append(character);
      if (at + character.size() == word.size()) with += suffix;
      character = with;
      id = id_of(character);
    }
    at += size_t(std::max(c.length, 1));
    if (id >= 0) {
      if (waiting >= 0) symbols.push_back(std::exchange(waiting, -1));
      symbols.push_back(id);
    } else if (byte_fallback && add_bytes(character, symbols)) {
      continue;  // what waits goes on waiting, as in Hugging Face's tokenizers
    } else if (has_unk) {
      if (waiting >= 0 && !fuse_unk) symbols.push_back(waiting);
      waiting = id_of(unk);
      require(waiting >= 0, "bpe tokenizer: the unknown token \"", unk,
              "\" is not in the vocabulary");
    } else {
      ++dropped;
    }
  }
  if (waiting >= 0) symbols.push_back(waiting);
}

void Model::encode_word(std::string_view word, std::vector<int32_t>& out, int64_t& dropped) const {
  require(word.size() < size_t(1) << 31, "bpe tokenizer: a word of ", word.size(), " bytes");
  if (whole_words_first) {
    if (const int32_t id = id_of(word); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  add_symbols(word, symbols, dropped);
  if (symbols.size() > kShortWord)
    Joining(merges, symbols).run(symbols);
  else if (symbols.size() > 1)
    join_short(merges, symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
}

}  // namespace olm::nn::bpe
