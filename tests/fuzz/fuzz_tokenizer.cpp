// Any text as a tokenizer.json, and behind a zero byte any text to encode: either it is a tokenizer
// whose ids decode and that is read back from what it saves, or it is refused.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <olm/nn/text.h>

namespace {

constexpr std::string_view kText =
    "Hello,  world\n\r\n a\xcc\x81 caf\xc3\xa9 12345 \xe2\x96\x81the <s>cat</s> \xef\xac\x81 don't";

void use(const olm::nn::Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    int64_t dropped = 0;
    const auto ids = tokenizer.encode(
        text,
        {.add_special_tokens = special, .parse_special_tokens = special, .dropped = &dropped});
    (void)tokenizer.decode(ids, special);
    olm::nn::StreamDecoder stream(tokenizer);
    for (const int32_t id : ids) (void)stream.push(id);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all{reinterpret_cast<const char*>(data), size};
  const size_t end = all.find('\0');
  const std::string_view text = end == all.npos ? kText : all.substr(end + 1);
  try {
    const auto tokenizer = olm::nn::load_tokenizer_from_text(all.substr(0, end));
    const olm::Json json = tokenizer->to_json();
    if (olm::nn::load_tokenizer_from_text(json.dump())->to_json() != json) std::abort();
    use(*tokenizer, text);
  } catch (const olm::Error&) {}
  return 0;
}
