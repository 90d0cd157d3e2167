#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include <olm/engine/utf8.h>
#include <olm/kernels/base/error.h>
#include <olm/nn/text/unicode_internal.h>

namespace olm::nn::bpe {

namespace {

bool is_category(char32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  const utf8proc_category_t category = utf8proc_category(utf8proc_int32_t(c));
  return category >= first && category <= last;
}

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  const bool composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  options |= composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  return utf8proc_option_t(options);
}

bool is_ascii(char c) { return uint8_t(c) < 0x80; }

void append_normal_form(std::string& out, std::string_view text, NormalForm form) {
  if (text.empty()) return;
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   utf8proc_ssize_t(text.size()), &made, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, &std::free);
  require(size >= 0, "tokenizer: the text cannot be normalised: ", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(made), size_t(size));
}

}  // namespace

const char* const kRustWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}";

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x9 && c <= 0xd);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return is_category(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
}

// Four characters have left these categories since.
bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  return c == 0x166d || c == 0x111c9 ||
         (is_category(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO) && !is_newer_punctuation(c));
}

bool is_mark(char32_t c) {
  if (c < 0x80) return false;
  return c == 0x1cf2 || c == 0x1cf3 ||
         (is_category(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME) && !has_newer_form(c));
}

std::string normal_form(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    // ASCII stays what it is, but for a character that marks follow.
    size_t begin = at;
    while (begin < text.size() && is_ascii(text[begin])) ++begin;
    if (begin == text.size()) return out.append(text.substr(at));
    begin -= begin > at;
    out.append(text.substr(at, begin - at));
    size_t end = begin;
    do {
      const Utf8Char c = decode_utf8(text, end);
      if (has_newer_form(c.code)) break;
      end += size_t(std::max(c.length, 1));
    } while (end < text.size() && !is_ascii(text[end]));
    append_normal_form(out, text.substr(begin, end - begin), form);
    at = end;
    while (at < text.size() && !is_ascii(text[at]) && has_newer_form(decode_utf8(text, at).code)) {
      const size_t length = size_t(std::max(decode_utf8(text, at).length, 1));
      out.append(text.substr(at, length));
      at += length;
    }
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.code < 0x80)
      out += c.code >= 'A' && c.code <= 'Z' ? char(c.code + 32) : char(c.code);
    else if (c.code == 0x130)  // the one letter whose small form is two
      out += "i\xcc\x87";
    else
      append_utf8(out, char32_t(utf8proc_tolower(utf8proc_int32_t(c.code))));
    at += size_t(std::max(c.length, 1));
  }
  return out;
}

std::string with_replacements(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    size_t length = size_t(decode_utf8(bytes, at).length);
    if (length > 0) {
      out.append(bytes.substr(at, length));
    } else {
      // The longest start of a character: what would be incomplete if the text ended there.
      length = 1;
      while (at + length < bytes.size() && decode_utf8(bytes.substr(at, length), 0).incomplete &&
             decode_utf8(bytes.substr(at, length + 1), 0).incomplete)
        ++length;
      append_utf8(out, 0xfffd);
    }
    at += length;
  }
  return out;
}

}  // namespace olm::nn::bpe
