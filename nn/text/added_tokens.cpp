#include <olm/nn/text/bpe_internal.h>

namespace olm::nn::bpe {

namespace {

constexpr uint64_t key_of(int32_t node, char byte) {
  return uint64_t(uint32_t(node)) << 8 | uint8_t(byte);
}

}  // namespace

TokenTrie::TokenTrie() : ids_(1, -1) { first_.fill(-1); }

void TokenTrie::add(std::string_view token, int32_t id) {
  int32_t node = 0;
  for (const char byte : token) {
    const auto [at, is_new] = next_.emplace(key_of(node, byte), int32_t(ids_.size()));
    if (is_new) ids_.push_back(-1);
    if (node == 0) first_[uint8_t(byte)] = at->second;
    node = at->second;
  }
  if (node != 0) ids_[size_t(node)] = id;
}

TokenTrie::Match TokenTrie::longest(std::string_view text) const {
  Match match;
  int32_t node = text.empty() ? -1 : first_[uint8_t(text[0])];
  for (size_t length = 1; node >= 0; ++length) {
    if (ids_[size_t(node)] >= 0) match = {length, ids_[size_t(node)]};
    if (length == text.size()) break;
    const auto next = next_.find(key_of(node, text[length]));
    node = next == next_.end() ? -1 : next->second;
  }
  return match;
}

void TokenTrie::cut(std::string_view text, const TakeText& take_text,
                    const TakeToken& take_token) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const Match match = longest(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    if (at > done) take_text(text.substr(done, at - done));
    take_token(match.id);
    done = at += match.length;
  }
  if (done < text.size()) take_text(text.substr(done));
}

void AddedTokens::add(AddedToken token) {
  (token.normalized ? normalized_ : literal_).add(token.text, token.id);
  all_.push_back(std::move(token));
}

void AddedTokens::cut(std::string_view text, const TakeText& take_text,
                      const TakeToken& take_token) const {
  literal_.cut(
      text, [&](std::string_view rest) { normalized_.cut(rest, take_text, take_token); },
      take_token);
}

}  // namespace olm::nn::bpe
