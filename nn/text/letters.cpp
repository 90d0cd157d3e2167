#include <array>

#include <olm/engine/utf8.h>
#include <olm/kernels/base/error.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn::bpe {

namespace {

/// GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for U+0100 and on.
struct Letters {
  std::array<char32_t, 256> of_byte{};
  std::array<int, 512> of_letter{};
  Letters() {
    of_letter.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
      of_byte[size_t(b)] = printable ? char32_t(b) : next++;
      of_letter[of_byte[size_t(b)]] = b;
    }
  }
};

const Letters& letters() {
  static const Letters table;
  return table;
}

}  // namespace

char32_t letter_of_byte(uint8_t byte) { return letters().of_byte[byte]; }
int byte_of_letter(char32_t letter) { return letter < 512 ? letters().of_letter[letter] : -1; }

std::string letters_of_bytes(std::string_view bytes) {
  std::string text;
  for (const char b : bytes) append_utf8(text, letter_of_byte(uint8_t(b)));
  return text;
}

bool bytes_of_letters(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const int byte = byte_of_letter(c.code);
    if (c.length == 0 || byte < 0) return false;
    bytes += char(byte);
    at += size_t(c.length);
  }
  return true;
}

void require_utf8(const char* who, std::string_view text) {
  const size_t at = find_invalid_utf8(text);
  if (at == std::string_view::npos) return;
  const int byte = uint8_t(text[at]);
  fail(who, ": the text is not UTF-8: byte ", byte, " at byte offset ", at,
       " (a byte tokenizer takes any file)");
}

}  // namespace olm::nn::bpe
