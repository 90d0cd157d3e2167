#include <algorithm>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

namespace {

struct NamedBehavior {
  const char* name;
  Behavior behavior;
};
constexpr NamedBehavior kBehaviors[] = {{"Removed", Behavior::removed},
                                        {"Isolated", Behavior::isolated},
                                        {"MergedWithPrevious", Behavior::merged_with_previous},
                                        {"MergedWithNext", Behavior::merged_with_next},
                                        {"Contiguous", Behavior::contiguous}};

/// Turns matches and what lies between them into words, by a behavior.
template <class Take>
class Joiner {
 public:
  Joiner(Behavior behavior, bool invert, Take& take)
      : behavior_(behavior), invert_(invert), take_(take) {}

  void add(size_t begin, size_t end, bool is_match) {
    is_match ^= invert_;
    switch (behavior_) {
      case Behavior::removed:
        if (!is_match) take_(begin, end);
        return;
      case Behavior::isolated:
        return take_(begin, end);
      case Behavior::contiguous:
        return join_if(is_match == previous_, begin, end, is_match);
      case Behavior::merged_with_previous:
        return join_if(is_match && !previous_, begin, end, is_match);
      case Behavior::merged_with_next:
        return join_if(waits_ && previous_ && !is_match, begin, end, is_match);
    }
  }
  void finish() {
    if (waits_) take_(begin_, end_);
  }

 private:
  void join_if(bool joins, size_t begin, size_t end, bool is_match) {
    if (!waits_ || !joins) {
      if (waits_) take_(begin_, end_);
      begin_ = begin;
    }
    end_ = end;
    waits_ = true;
    previous_ = is_match;
  }
  Behavior behavior_;
  bool invert_;
  Take& take_;
  size_t begin_ = 0, end_ = 0;
  bool waits_ = false, previous_ = false;
};

/// Matches are characters.
template <class Take>
void for_members(bool (*is_member)(char32_t), std::string_view text, Take&& take) {
  size_t done = 0;
  for (size_t at = 0, next; at < text.size(); at = next) {
    const Utf8Char c = decode_utf8(text, at);
    next = at + size_t(std::max(c.length, 1));
    if (!is_member(c.code)) continue;
    if (at > done) take(done, at, false);
    take(at, next, true);
    done = next;
  }
  if (done < text.size()) take(done, text.size(), false);
}

}  // namespace

WordCutter::WordCutter(const std::vector<Step>& steps)
    : steps_(steps), matchers_(steps.size()), buffers_(steps.size()) {
  for (size_t i = 0; i < steps.size(); ++i)
    if (steps[i].pattern.regex) matchers_[i].emplace(*steps[i].pattern.regex);
}

void WordCutter::run_from(size_t step, std::string_view text, size_t from_first) {
  if (text.empty()) return;
  if (step == steps_.size()) return call_(take_, text);
  require_grown(text.size(), limit_);
  std::string& buffer = buffers_[step];
  const std::string& prefix = steps_[step].text;
  switch (steps_[step].kind) {
    case Step::Kind::cut:
      return cut(step, text, from_first);
    case Step::Kind::metaspace:
      return metaspace(step, text, from_first);
    case Step::Kind::prefix:
      if (text.starts_with(prefix)) return run_from(step + 1, text, from_first);
      buffer.assign(prefix).append(text);
      return run_from(step + 1, buffer, from_first > 0 ? from_first + prefix.size() : 0);
    case Step::Kind::letters:
      const size_t of_first = letters_of_bytes(text.substr(0, from_first)).size();
      buffer = letters_of_bytes(text);
      return run_from(step + 1, buffer, of_first);
  }
}

void WordCutter::cut(size_t step, std::string_view text, size_t from_first) {
  const auto word = [&](size_t begin, size_t end) {
    run_from(step + 1, text.substr(begin, end - begin),
             begin < from_first ? std::min(from_first, end) - begin : 0);
  };
  const Step& s = steps_[step];
  Joiner joiner(s.behavior, s.invert, word);
  const auto take = [&](size_t begin, size_t end, bool match) { joiner.add(begin, end, match); };
  if (s.is_member)
    for_members(s.is_member, text, take);
  else if (matchers_[step])
    for_matches(*matchers_[step], text, take);
  else
    for_matches(s.pattern.text, text, take);
  joiner.finish();
}

void WordCutter::metaspace(size_t step, std::string_view text, size_t from_first) {
  const Step& s = steps_[step];
  std::string& out = buffers_[step];
  out.clear();
  size_t of_first = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == ' ')
      out += s.text;
    else
      out += text[at];
    if (at < from_first) of_first = out.size();
  }
  const bool wanted =
      s.scheme == Step::Scheme::always || (s.scheme == Step::Scheme::first && from_first > 0);
  if (wanted && !out.starts_with(s.text)) {
    out.insert(0, s.text);
    if (of_first > 0) of_first += s.text.size();
  }
  run_from(step + 1, out, of_first);
}

namespace {

Behavior read_behavior(const JsonPart& part) {
  for (const NamedBehavior& one : kBehaviors)
    if (part.text() == one.name) return one.behavior;
  part.refuse("the behavior \"", part.text(),
              "\", Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous was wanted");
}

void add_cut(std::vector<Step>& into, bool (*is_member)(char32_t), Behavior behavior) {
  into.push_back({.is_member = is_member, .behavior = behavior});
}

void read_byte_level(const JsonPart& part, std::vector<Step>& into) {
  if (part.flag("add_prefix_space", false))
    into.push_back({.kind = Step::Kind::prefix, .text = " "});
  if (part.flag("use_regex", true)) {
    static const Regex gpt2 = Regex::of_pcre2(kGpt2Pattern);
    into.push_back({.pattern = {.text = {}, .regex = gpt2}});
  }
  into.push_back({.kind = Step::Kind::letters});
}

void read_metaspace(const JsonPart& part, std::vector<Step>& into) {
  using Scheme = Step::Scheme;
  Step step{.kind = Step::Kind::metaspace};
  step.text = part.at("replacement").text();
  if (step.text.empty() || size_t(decode_utf8(step.text, 0).length) != step.text.size())
    part.at("replacement").refuse("\"", step.text, "\", one character was wanted");
  // Before there were schemes, a flag told always from never.
  const auto old = part.find("add_prefix_space");
  step.scheme = old && !part.flag("add_prefix_space", true) ? Scheme::never : Scheme::always;
  if (const auto scheme = part.find("prepend_scheme")) {
    const std::string& name = scheme->text();
    if (name != "always" && name != "first" && name != "never")
      scheme->refuse("\"", name, "\", always, first or never was wanted");
    if (old && step.scheme == Scheme::never && name != "never")
      scheme->refuse("\"", name, "\" beside \"add_prefix_space\": false");
    step.scheme = name == "always"  ? Scheme::always
                  : name == "first" ? Scheme::first
                                    : Scheme::never;
  }
  Step cut{.behavior = Behavior::merged_with_next};
  cut.pattern.text = step.text;
  into.push_back(std::move(step));
  if (part.flag("split", true)) into.push_back(std::move(cut));
}

void read_split(const JsonPart& part, std::vector<Step>& into) {
  into.push_back({.pattern = Pattern::read(part.at("pattern")),
                  .behavior = read_behavior(part.at("behavior")),
                  .invert = part.flag("invert", false)});
}

}  // namespace

void read_pre_tokenizer(const JsonPart& part, std::vector<Step>& into) {
  const std::string type = part.type();
  if (into.size() >= kMaxSteps) part.refuse("more than ", kMaxSteps, " pre-tokenizers");
  if (type == "Sequence") {
    const JsonPart items = part.at("pretokenizers");
    for (size_t i = 0; i < items.size(); ++i) read_pre_tokenizer(items.item(i), into);
  } else if (type == "ByteLevel") {
    read_byte_level(part, into);
  } else if (type == "Split") {
    read_split(part, into);
  } else if (type == "Metaspace") {
    read_metaspace(part, into);
  } else if (type == "Digits") {
    const bool each = part.flag("individual_digits", false);
    add_cut(into, is_numeric, each ? Behavior::isolated : Behavior::contiguous);
  } else if (type == "Punctuation") {
    const auto behavior = part.find("behavior");
    add_cut(into, is_punctuation, behavior ? read_behavior(*behavior) : Behavior::isolated);
  } else if (type == "WhitespaceSplit") {
    add_cut(into, is_white_space, Behavior::removed);
  } else if (type == "Whitespace") {
    const std::string word = kRustWord;
    into.push_back(
        {.pattern = {.text = {},
                     .regex = Regex::of_pcre2("[" + word + "]+|[^" + word + "\\p{White_Space}]+")},
         .behavior = Behavior::removed,
         .invert = true});
  } else {
    part.refuse_type("pre-tokenizer",
                     "ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, "
                     "WhitespaceSplit and Sequence");
  }
}

}  // namespace olm::nn::bpe
