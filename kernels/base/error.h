#pragma once
// Errors of libolm: one exception type, and `require`, which formats its message only on failure.
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#if defined(_WIN32)
#define OLM_API
#else
#define OLM_API __attribute__((visibility("default")))
#endif

namespace olm {

namespace detail {
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  text.imbue(std::locale::classic());  // a program's own would write a size as 1,024
  (text << ... << parts);
  return text.str();
}
}  // namespace detail

/// What libolm throws. The message names the operation, what came and what was wanted.
class OLM_API Error : public std::runtime_error {
 public:
  template <class... Parts>
  explicit Error(const Parts&... parts) : std::runtime_error(detail::concat(parts...)) {}
};

/// An error of a file or folder: missing, unreadable, damaged, not writable.
class OLM_API FileError : public Error {
 public:
  using Error::Error;
};

template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(const Parts&... parts) {
  throw Error(parts...);
}

/// Throws `Error` made of `parts` unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

}  // namespace olm
