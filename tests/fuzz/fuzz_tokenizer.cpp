// Any text as a tokenizer.json: either it is a tokenizer whose ids decode and which is written
// back, or it is refused.
#include <cstdint>
#include <string_view>

#include <olm/nn/text.h>

namespace {

void use(const olm::nn::Tokenizer& tokenizer) {
  for (const std::string_view text :
       {"Hello, world\n",
        "  the fox 12345 <s> \xe2\x96\x81\xe2\x96\x81 e\xcc\x81 \xc3\xa9<|end|> "})
    for (const bool special : {false, true}) try {
        tokenizer.decode(tokenizer.encode(
            text, {.add_special_tokens = special, .parse_special_tokens = special}));
      } catch (const olm::Error&) {}
  tokenizer.to_json();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    use(*olm::nn::load_tokenizer_from_text({reinterpret_cast<const char*>(data), size}));
  } catch (const olm::Error&) {}
  return 0;
}
