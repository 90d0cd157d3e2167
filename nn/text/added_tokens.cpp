#include <algorithm>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

namespace {

constexpr uint64_t key_of(int32_t node, uint8_t byte) {
  return uint64_t(uint32_t(node)) << 8 | byte;
}

/// The character that begins at `at`, and the one that ends there.
Utf8Char character_at(std::string_view text, size_t at) { return decode_utf8(text, at); }
Utf8Char character_before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (uint8_t(text[at]) & 0xc0) == 0x80);
  return decode_utf8(text, at);
}

bool is_word(char32_t c) {
  static const Regex word = Regex::of_pcre2("\\A[" + std::string(kRustWord) + "]");
  std::string text;
  append_utf8(text, c);
  size_t begin = 0, end = 0;
  return Matcher(word).find(text, 0, begin, end);
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(character_before(text, begin).code)) return false;
  return end == text.size() || !is_word(character_at(text, end).code);
}

}  // namespace

bool TokenFinder::add(std::string_view token, int32_t value) {
  int32_t node = 0;
  for (size_t i = token.size(); i-- > 0;) {
    const uint8_t byte = uint8_t(token[i]);
    int32_t next = child(node, byte);
    if (next == 0) {
      next = int32_t(nodes_.size());
      nodes_.push_back({.depth = nodes_[size_t(node)].depth + 1});
      if (node == 0)
        roots_[byte] = next;
      else
        next_.emplace(key_of(node, byte), next);
    }
    node = next;
  }
  if (node == 0 || nodes_[size_t(node)].value >= 0) return false;
  nodes_[size_t(node)].value = value;
  return true;
}

int32_t TokenFinder::child(int32_t node, uint8_t byte) const {
  if (node == 0) return roots_[byte];
  const auto at = next_.find(key_of(node, byte));
  return at == next_.end() ? 0 : at->second;
}

void TokenFinder::finish() {
  struct Edge {
    int32_t node, child;
    uint8_t byte;
  };
  std::vector<Edge> edges;
  for (int byte = 0; byte < 256; ++byte)
    if (roots_[size_t(byte)] != 0) edges.push_back({0, roots_[size_t(byte)], uint8_t(byte)});
  for (const auto& [key, child] : next_)
    edges.push_back({int32_t(key >> 8), child, uint8_t(key & 0xff)});
  // Failures lead to shorter texts, which come first.
  std::sort(edges.begin(), edges.end(), [&](const Edge& a, const Edge& b) {
    return nodes_[size_t(a.child)].depth < nodes_[size_t(b.child)].depth;
  });
  for (const Edge& edge : edges) {
    Node& node = nodes_[size_t(edge.child)];
    int32_t failure = 0;
    if (edge.node != 0) {
      failure = nodes_[size_t(edge.node)].failure;
      while (failure != 0 && child(failure, edge.byte) == 0)
        failure = nodes_[size_t(failure)].failure;
      failure = child(failure, edge.byte);
    }
    node.failure = failure;
    node.longest = node.value >= 0 ? edge.child : nodes_[size_t(failure)].longest;
  }
}

std::vector<TokenFinder::Found> TokenFinder::find(std::string_view text) const {
  std::vector<Found> found;
  if (nodes_.size() == 1) return found;
  int32_t at = 0;
  for (size_t i = text.size(); i-- > 0;) {
    const uint8_t byte = uint8_t(text[i]);
    int32_t next = child(at, byte);
    while (next == 0 && at != 0) {
      at = nodes_[size_t(at)].failure;
      next = child(at, byte);
    }
    at = next;
    if (const int32_t longest = nodes_[size_t(at)].longest; longest != 0)
      found.push_back({i, size_t(nodes_[size_t(longest)].depth), nodes_[size_t(longest)].value});
  }
  std::reverse(found.begin(), found.end());
  size_t kept = 0, done = 0;
  for (const Found& one : found) {
    if (one.begin < done) continue;
    done = one.begin + one.length;
    found[kept++] = one;
  }
  found.resize(kept);
  return found;
}

bool AddedTokens::add(const AddedToken& token, std::string_view text) {
  if (!finder_.add(text, int32_t(tokens_.size()))) return false;
  tokens_.push_back(token);
  return true;
}

std::vector<Section> AddedTokens::cut(std::string_view text, bool special) const {
  std::vector<Section> sections;
  size_t done = 0, space_end = 0;  // where the white space ends that a token took last
  for (const TokenFinder::Found& found : finder_.find(text)) {
    const AddedToken& token = tokens_[size_t(found.value)];
    size_t begin = found.begin, end = begin + found.length;
    if (token.special && !special) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip)
      while (begin > done && is_white_space(character_before(text, begin).code))
        begin -= size_t(character_before(text, begin).length);
    if (token.rstrip) {
      end = std::max(end, space_end);  // before that all is white space
      while (end < text.size() && is_white_space(character_at(text, end).code))
        end += size_t(character_at(text, end).length);
      space_end = end;
    }
    // White space that the token before has taken can hold this one, which then counts too.
    if (begin > done) sections.push_back({done, begin, -1});
    sections.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) sections.push_back({done, text.size(), -1});
  return sections;
}

}  // namespace olm::nn::bpe
