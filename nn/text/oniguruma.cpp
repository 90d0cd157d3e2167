// Where the syntax of Oniguruma (Ruby's, over Unicode) means another thing than PCRE2's.
#include <cctype>
#include <vector>

#include <olm/kernels/base/error.h>
#include <olm/nn/text/regex_internal.h>

namespace olm::nn::bpe {

namespace {

/// An escape inside square brackets, and the opposite one; null where only brackets of their own
/// can say it.
struct ClassEscape {
  char letter;
  const char *members, *others;
};
constexpr ClassEscape kEscapes[] = {
    {'s',
     "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
     "\\x{205f}\\x{3000}",
     "\\P{White_Space}"},
    {'w', "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", nullptr},
    {'h', "0-9a-fA-F", nullptr},
    {'d', "\\p{Nd}", "\\P{Nd}"},
};

/// \w outside of brackets has some signs of Latin-1 besides: superscripts and fractions.
constexpr const char* kMoreWord = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

/// Reads an expression and writes it in the other syntax.
class Translation {
 public:
  explicit Translation(const std::string& pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail("the regular expression \"", in_, "\" has ", parts..., " at byte ", at_,
         ", which is not supported");
  }
  char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  void step() {
    const char c = in_[at_];
    if (c == '\\') return escape();
    if (c == '[') {
      atom_ = out_.size();
      return brackets();
    }
    if (c == '(') return open();
    if (c == '{' && interval()) return;
    if (c == ')') {
      atom_ = groups_.empty() ? out_.size() : groups_.back();
      if (!groups_.empty()) groups_.pop_back();
    } else if (c != '*' && c != '+' && c != '?') {
      if ((c & 0xc0) != 0x80) atom_ = out_.size();
    }
    out_ += c;
    ++at_;
  }

  void open() {
    groups_.push_back(out_.size());
    out_ += '(';
    ++at_;
    if (peek() != '?') return;
    if (peek(1) == '#') refuse("a comment");
    // (?m) lets the dot match line feeds there, which is (?s) here.
    if (peek(1) != '-' && peek(1) != 'm' && peek(1) != 'i' && peek(1) != 'x') return;
    for (; at_ < in_.size() && peek() != ':' && peek() != ')'; ++at_)
      out_ += peek() == 'm' ? 's' : peek();
    // (?i) holds up to the end of the group, alternatives included, in both.
  }

  /// {n}, {n,}, {,m}, {n,m}. A + behind one repeats it there; here it would make it possessive.
  bool interval() {
    size_t end = at_ + 1;
    while (end < in_.size() && (std::isdigit(uint8_t(in_[end])) || in_[end] == ',')) ++end;
    if (end >= in_.size() || in_[end] != '}' || end == at_ + 1) return false;
    std::string range = in_.substr(at_, end + 1 - at_);
    if (range == "{,}" || range.find(',') != range.rfind(',')) return false;
    if (range.starts_with("{,")) range.insert(1, "0");
    const bool exact = range.find(',') == range.npos;
    out_ += range;
    at_ = end + 1;
    if (peek() == '+' || (peek() == '?' && exact)) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
    return true;
  }

  /// \u0041 and \x41.
  bool code_point() {
    const bool is_u = peek(1) == 'u';
    if ((!is_u && peek(1) != 'x') || peek(2) == '{') return false;
    std::string digits;
    for (size_t i = 2; digits.size() < (is_u ? 4u : 2u) && std::isxdigit(uint8_t(peek(i))); ++i)
      digits += peek(i);
    if (!is_u && digits.size() == 2 && digits[0] >= '8') refuse("a byte that is no character");
    if (digits.empty() || (is_u && digits.size() != 4)) refuse("an incomplete code point");
    out_ += "\\x{" + digits + "}";
    at_ += 2 + digits.size();
    return true;
  }

  /// Copies an escape that means the same in both: \p{…}, \x{…}, or one character.
  void copy_escape() {
    out_ += in_[at_++];
    if (at_ >= in_.size()) return;
    const char kind = in_[at_];
    out_ += in_[at_++];
    if ((kind == 'p' || kind == 'P' || kind == 'x') && peek() == '{')
      while (at_ < in_.size() && out_.back() != '}') out_ += in_[at_++];
  }

  void escape() {
    atom_ = out_.size();
    const char letter = peek(1);
    if (code_point()) return;
    for (const ClassEscape& one : kEscapes)
      if (std::tolower(uint8_t(letter)) == one.letter) {
        out_ += letter == one.letter ? "[" : "[^";
        out_ += one.members;
        if (one.letter == 'w') out_ += kMoreWord;
        out_ += ']';
        at_ += 2;
        return;
      }
    const std::string word = std::string("[") + kEscapes[1].members + kMoreWord + "]";
    if (letter == 'v') {
      out_ += "\\x{b}";
    } else if (letter == 'b') {
      out_ += "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))";
    } else if (letter == 'B') {
      out_ += "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))";
    } else if (letter == 'K' || letter == 'O' || letter == 'N' || letter == 'y' || letter == 'Y') {
      refuse("the escape \\", letter);
    } else {
      return copy_escape();
    }
    at_ += 2;
  }

  void bracket_escape() {
    const char letter = peek(1);
    if (code_point()) return;
    for (const ClassEscape& one : kEscapes)
      if (std::tolower(uint8_t(letter)) == one.letter) {
        const char* text = letter == one.letter ? one.members : one.others;
        if (!text) refuse("\\", letter, " in square brackets");
        out_ += text;
        at_ += 2;
        return;
      }
    if (letter == 'v') {
      out_ += "\\x{b}";
      at_ += 2;
      return;
    }
    copy_escape();
  }

  void brackets() {
    out_ += in_[at_++];
    if (peek() == '^') out_ += in_[at_++];
    for (bool first = true; at_ < in_.size(); first = false) {
      const char c = in_[at_];
      if (c == ']' && !first) {
        out_ += in_[at_++];
        return;
      }
      if (c == '\\') {
        bracket_escape();
      } else if (c == '&' && peek(1) == '&') {
        refuse("an intersection of sets");
      } else if (c == '[') {
        if (peek(1) != ':') refuse("a set inside a set");
        const size_t end = in_.find(":]", at_ + 2);
        if (end == in_.npos) refuse("an open [:");
        out_.append(in_, at_, end + 2 - at_);
        at_ = end + 2;
      } else {
        out_ += c;
        ++at_;
      }
    }
  }

  const std::string& in_;
  std::string out_;
  size_t at_ = 0;
  size_t atom_ = 0;             // where in out_ the last thing that can be repeated begins
  std::vector<size_t> groups_;  // where the open groups begin
};

}  // namespace

std::string pcre2_of_oniguruma(const std::string& pattern) { return Translation(pattern).run(); }

}  // namespace olm::nn::bpe
