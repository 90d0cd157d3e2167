#include <olm/nn/text.h>

namespace olm::nn {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text,
                                           const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  while (!text.empty()) {
    const size_t end = options.parse_special_tokens ? text.find(kEndOfText) : text.npos;
    const std::string_view plain = text.substr(0, end);
    for (const char byte : plain) ids.push_back(uint8_t(byte));
    if (end == text.npos) break;
    ids.push_back(256);
    text.remove_prefix(end + kEndOfText.size());
  }
  return ids;
}

std::string_view ByteTokenizer::token_bytes(int32_t id) const {
  static const std::array<char, 256> bytes = [] {
    std::array<char, 256> all{};
    for (int i = 0; i < 256; ++i) all[size_t(i)] = char(i);
    return all;
  }();
  require_id(id);
  return id == 256 ? kEndOfText : std::string_view(&bytes[size_t(id)], 1);
}

Json ByteTokenizer::to_json() const {
  Json json;
  json["version"] = "1.0";
  json["type"] = "byte";
  return json;
}

}  // namespace olm::nn
