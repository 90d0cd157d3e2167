#pragma once
// UTF-8: validation and decoding, one sequence at a time.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace olm {

/// One code point and the bytes it takes. `length` 0 means that no valid sequence begins there;
/// `incomplete` then says that more bytes could make one.
struct Utf8Char {
  char32_t code = 0;
  int length = 0;
  bool incomplete = false;
};

/// Reads the sequence at `text[at]`: no overlong forms, no surrogates, nothing above U+10FFFF.
inline Utf8Char decode_utf8(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return uint8_t(text[at + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, false};
  const int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4) return {};
  // What the second byte may be tells overlong forms, surrogates and too large values apart.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  char32_t code = lead & (0xff >> (length + 1));
  for (int i = 1; i < length; ++i) {
    if (at + size_t(i) >= text.size()) return {0, 0, true};
    const uint8_t next = byte(size_t(i));
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xbf)) return {};
    code = code << 6 | (next & 0x3f);
  }
  return {code, length, false};
}

/// Appends the bytes of a code point.
inline void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += char(code);
  } else if (code < 0x800) {
    out += char(0xc0 | code >> 6);
    out += char(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += char(0xe0 | code >> 12);
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  } else {
    out += char(0xf0 | code >> 18);
    out += char(0x80 | (code >> 12 & 0x3f));
    out += char(0x80 | (code >> 6 & 0x3f));
    out += char(0x80 | (code & 0x3f));
  }
}

/// Offset of the first byte that is not part of valid UTF-8; npos where all is valid.
inline size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (uint8_t(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Char c = decode_utf8(text, at);
    if (c.length == 0) return at;
    at += size_t(c.length);
  }
  return std::string_view::npos;
}

/// `text` without the byte-order mark that some editors put at its start.
inline std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xef\xbb\xbf";
  if (text.starts_with(kMark)) text.remove_prefix(kMark.size());
  return text;
}

}  // namespace olm
