#include <olm/nn/text.h>

namespace olm::nn {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text, const EncodeOptions&) const {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  return std::vector<int32_t>(bytes, bytes + text.size());
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
