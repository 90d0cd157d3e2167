#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <olm/kernels/base/error.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/regex_internal.h>

namespace olm::nn::bpe {

namespace {

/// Bounds on what an expression from a file may cost.
constexpr size_t kMaxPattern = 8192;
constexpr uint32_t kMatchLimit = 10'000'000;

std::string message_of(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
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

Regex::Regex(const std::string& pcre2, int) {
  require(pcre2.size() <= kMaxPattern, "a regular expression of ", pcre2.size(), " bytes, at most ",
          kMaxPattern, " are taken");
  int error = 0;
  size_t at = 0;
  // In Oniguruma's Ruby syntax ^ and $ stand at the borders of lines.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre2.data()), pcre2.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, nullptr);
  require(code != nullptr, "the regular expression \"", pcre2, "\" is wrong at byte ", at, ": ",
          message_of(error));
  code_ =
      std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;  // else the interpreter matches
}

Matcher::Matcher(const Regex& regex) : regex_(regex) {
  const auto* code = static_cast<const pcre2_code*>(regex.code_.get());
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  data_ = std::shared_ptr<void>(
      data, [](void* p) { pcre2_match_data_free(static_cast<pcre2_match_data*>(p)); });
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  context_ = std::shared_ptr<void>(
      context, [](void* p) { pcre2_match_context_free(static_cast<pcre2_match_context*>(p)); });
  require(data && context, "tokenizer: no memory to match words");
  pcre2_set_match_limit(context, kMatchLimit);
}

bool Matcher::find(std::string_view text, size_t from, size_t& begin, size_t& end) {
  const auto* code = static_cast<const pcre2_code*>(regex_.code_.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.empty() ? "" : text.data());
  auto* data = static_cast<pcre2_match_data*>(data_.get());
  auto* context = static_cast<pcre2_match_context*>(context_.get());
  int found = PCRE2_ERROR_JIT_STACKLIMIT;
  if (regex_.jit_)
    found = pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
  // What needs more than the just-in-time code's stack is matched by the interpreter.
  if (found == PCRE2_ERROR_JIT_STACKLIMIT)
    found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                        context);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  require(found >= 0, "tokenizer: the text cannot be matched at byte offset ", from, ": ",
          message_of(found));
  const size_t* span = pcre2_get_ovector_pointer(data);
  begin = span[0];
  end = span[1];
  // \K can put the end of a match before its begin, or both before `from`.
  require(from <= begin && begin <= end, "tokenizer: an expression that matches backwards");
  return true;
}

}  // namespace olm::nn::bpe
