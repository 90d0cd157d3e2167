#pragma once
// Commands that are printed to be typed.
#include <string>

namespace olm::tools {

/// `word` as a POSIX shell reads it back: unchanged where nothing in it means more than itself,
/// else in single quotes.
std::string shell_word(const std::string& word);

}  // namespace olm::tools
