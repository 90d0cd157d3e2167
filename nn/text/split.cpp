#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <olm/engine/utf8.h>
#include <olm/kernels/base/error.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn::bpe {

namespace {

/// Bounds on what an expression from a file may cost.
constexpr size_t kMaxPattern = 4096;
constexpr uint32_t kMatchLimit = 10'000'000;

std::string message_of(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct MatchState {
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    require(data && context, "tokenizer: no memory to match words");
    pcre2_set_match_limit(context, kMatchLimit);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
  pcre2_match_data* data;
  pcre2_match_context* context;
};

/// Where the next match begins and ends, or false. A match that needs more than the just-in-time
/// code's stack is made by the interpreter.
bool next_match(const pcre2_code* code, MatchState& state, std::string_view text, size_t from,
                size_t& begin, size_t& end) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  auto match = [&](uint32_t options) {
    return pcre2_match(code, subject, text.size(), from, options | PCRE2_NO_UTF_CHECK, state.data,
                       state.context);
  };
  int found = match(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  require(found >= 0, "tokenizer: the text cannot be split into words at byte offset ", from, ": ",
          message_of(found));
  const size_t* span = pcre2_get_ovector_pointer(state.data);
  begin = span[0];
  end = span[1];
  return true;
}

}  // namespace

// White space is spelled out (Unicode's White_Space), since PCRE2's \s has one character more.
#define OLM_SPACE                                                                    \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
  "\\x{202f}\\x{205f}\\x{3000}"
const char* const kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" OLM_SPACE "\\p{L}\\p{N}]+|[" OLM_SPACE
    "]+(?![^" OLM_SPACE "])|[" OLM_SPACE "]+";
#undef OLM_SPACE

Splitter::Splitter(const std::string& pattern) {
  require(pattern.size() <= kMaxPattern, "tokenizer: a split expression of ", pattern.size(),
          " bytes, at most ", kMaxPattern, " are taken");
  int error = 0;
  size_t at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  require(code != nullptr, "tokenizer: the split expression is wrong at byte ", at, ": ",
          message_of(error));
  code_ =
      std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it fails, the interpreter matches
}

void Splitter::split(std::string_view text,
                     const std::function<void(std::string_view)>& word) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  MatchState state(code);
  size_t done = 0, from = 0, begin = 0, end = 0;
  while (from < text.size() && next_match(code, state, text, from, begin, end)) {
    if (end <= begin) {  // an empty match cuts nothing: look behind the next character
      from = std::max(from, begin);
      if (from < text.size()) from += size_t(decode_utf8(text, from).length);
      continue;
    }
    if (begin > done) word(text.substr(done, begin - done));
    word(text.substr(begin, end - begin));
    done = from = end;
  }
  if (done < text.size()) word(text.substr(done));
}

}  // namespace olm::nn::bpe
