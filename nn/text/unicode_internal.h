#pragma once
// What Hugging Face's tokenizers asks of characters, and normal forms.
#include <string>
#include <string_view>

namespace olm::nn::bpe {

bool is_white_space(char32_t c);  ///< Unicode's White_Space
bool is_numeric(char32_t c);      ///< Nd, Nl, No
bool is_punctuation(char32_t c);  ///< P* and the signs of ASCII
bool is_mark(char32_t c);         ///< M*
/// Punctuation, and marks or characters with a decomposition, that Hugging Face's tokenizers does
/// not know yet.
bool is_newer_punctuation(char32_t c);
bool has_newer_form(char32_t c);
/// \w of Rust's regular expressions.
extern const char* const kRustWord;

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// `text` is valid UTF-8.
std::string normal_form(std::string_view text, NormalForm form);
/// Each character by itself.
std::string lower_case(std::string_view text);
/// Bytes as UTF-8; of what is not, each longest start of a character becomes U+FFFD.
std::string with_replacements(std::string_view bytes);

}  // namespace olm::nn::bpe
