// Any text as a tokenizer.json: either it is a tokenizer whose ids decode, or it is refused.
#include <cstdint>
#include <string_view>

#include <olm/nn/text.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  try {
    const auto tokenizer = olm::nn::load_tokenizer_from_text(text);
    try {
      (void)tokenizer->decode(tokenizer->encode("Hello, world\n"));
    } catch (const olm::Error&) {}
    return 0;
  } catch (const olm::Error&) {
    return 0;
  }
}
