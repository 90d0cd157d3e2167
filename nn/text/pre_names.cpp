// The names that tokenizer.ggml.pre of a GGUF file may have, and the expressions they stand for:
// those of the vendors' tokenizer.json where that is known.
#include <algorithm>

#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

using Steps = std::vector<std::string>;

// Pieces of expressions. Each alternative begins with its bar.
const std::string kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const std::string kLetters = R"(|[^\r\n\p{L}\p{N}]?\p{L}+)";
const std::string kOthers = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)";
const std::string kSpaces = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::string kLlama3 = kContractions + kLetters + R"(|\p{N}{1,3})" + kOthers + kSpaces;
const std::string kQwen2 = kContractions + kLetters + R"(|\p{N})" + kOthers + kSpaces;
const std::string kQwen35 = kContractions + R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})" +
                            R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" + kSpaces;
const std::string kJais2 =
    kContractions + kLetters + R"(|\p{N}{1,3})" + kOthers +
    R"(|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S))" +
    R"(|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
const std::string kMiniCpm5 = kContractions + kLetters + R"(|\p{N}+)" + kOthers + kSpaces;
const std::string kSeedCoder =
    kContractions + kLetters + R"(|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+)" + kSpaces;
const std::string kBailing = R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N})"
                             R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
const std::string kUfakzeka = kLetters.substr(1) + R"(|\p{N})" + kOthers + kSpaces;
const std::string kExaoneMoe = kContractions +
                               R"(|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N})" +
                               R"(| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";

// Words that may end in lower case, then those that begin in upper case.
const std::string kLower = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*)"
                           R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]+)";
const std::string kUpper = R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
                           R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]*)";
const std::string kSlashes = R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*)";
const std::string kTekken = kLower + kUpper + R"(|\p{N})" + kSlashes + kSpaces;
const std::string kGpt4o = kLower + kContractions + "?" + kUpper + kContractions + "?" +
                           R"(|\p{N}{1,3})" + kSlashes + kSpaces;
const std::string kYoutu =
    kLower + kContractions + "?" + kUpper + kContractions + "?" + R"(|\p{N})" + kSlashes + kSpaces;

const std::string kThreeDigits = R"(\p{N}{1,3})";
const std::string kCjk = "[一-龥぀-ゟ゠-ヿ]+";
const std::string kDeepSeekHead = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
                                  R"(|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)";
const std::string kDeepSeek3 = kDeepSeekHead + R"(| ?[\p{P}\p{S}]+[\r\n]*)" + kSpaces;
const std::string kSpark = kDeepSeekHead + R"(| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)";
const std::string kHangulAndMarks =
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-"
    "ゟ゠-"
    "ヿ]"
    "+";
const std::string kDeepSeekLetters =
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-"
    "ՖႠ-"
    "ჅᎠ-"
    "Ᏽᏸ-"
    "ᏽᲐ-"
    "Ჺ"
    "Ჽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-"
    "ᾼ\u1fbeῂ-"
    "ῄῆ-"
    "ῌῐ-"
    "\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻ"
    "Ȿ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-"
    "ｚ𐐀-"
    "𐑏𐒰-"
    "𐓓𐓘-"
    "𐓻𐲀"
    "-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const std::string kDeepSeekSigns = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+";
const std::string kDeepSeekCjk = "[一-龥ࠀ-一가-\ud7ff]+";
const std::string kAfmoeScripts =
    "[一-鿿㐀-䶿豈-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-"
    "\u17ffက-"
    "႟ꩠ-"
    "ꩿꧠ-"
    "\ua9ff가-"
    "\ud7afᄀ-ᇿ]+";
const std::string kBloom = " ?[^(\\s|.,!?…。，、।۔،)]+";

/// Names that stand for the same.
struct Row {
  std::vector<const char*> names;
  Steps steps;
  bool whole_words_first = false, adds_bos = false, composes = false;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {{"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
        "mellum", "modern-bert", "exaone4", "jina-v1-en", "jina-v2-code", "roberta-bpe", "jais",
        "trillion", "granite-docling"},
       {kGpt2Step}},
      {{"olmo", "mpt"}, {kGpt2Step}, false, false, true},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2"},
       {kDigitsStep, kGpt2Step}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano"},
       {kLlama3},
       true,
       true},
      {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {kLlama3}},
      {{"glm4", "glm5"}, {kLlama3}, true},
      {{"qwen2", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open"},
       {kQwen2},
       false,
       false,
       true},
      {{"deepseek-r1-qwen", "stablelm2", "grok-2"}, {kQwen2}},
      {{"qwen35"}, {kQwen35}},
      {{"jais-2"}, {kJais2}},
      {{"minicpm5"}, {kThreeDigits, kMiniCpm5}, true},
      {{"seed-coder"}, {kSeedCoder}},
      {{"bailingmoe", "bailingmoe2", "llada-moe"}, {kBailing}},
      {{"ufakzeka"}, {kUfakzeka}},
      {{"exaone-moe"}, {kExaoneMoe}},
      {{"laguna"}, {"[^\\n]+|[\\n]+", kQwen2}},
      {{"tekken"}, {kTekken}, true, true},
      {{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, {kGpt4o}},
      {{"granite-embed-multi-97m"}, {kGpt4o}, true},
      {{"tiny_aya", "cohere2moe"}, {"\\d{1,3}(?=(?:\\d{3})*\\b)", kGpt4o}},
      {{"youtu"}, {kHangulAndMarks, kYoutu}, true},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, {kThreeDigits, kCjk, kDeepSeek3}},
      {{"spark2_5"}, {kThreeDigits, kCjk, kSpark, kDigitsStep}},
      {{"deepseek-llm"},
       {"[\\r\\n]", kDeepSeekLetters, kDeepSeekSigns, "\\s+$", kDeepSeekCjk, "\\p{N}+"}},
      {{"deepseek-coder"}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", kDeepSeekCjk, kDigitsStep}},
      {{"afmoe"}, {"\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))", kAfmoeScripts, kDeepSeek3}},
      {{"falcon"}, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", kGpt2Step, "[0-9][0-9][0-9]"}},
      {{"default"}, {"[\\p{P}\\$\\+<=>\\^~\\|]+", kGpt2Step, "\\p{N}+", "[0-9][0-9][0-9]"}},
      {{"bloom", "poro-chat", "gpt3-finnish"}, {kBloom}},
      {{"viking"}, {kBloom, kDigitsStep}},
      {{"superbpe"}, {"\\p{N}+", "\\d{1,3}(?=(?:\\d{3})*(?!\\d))"}},
      {{"chameleon"},
       {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )",
        kDigitsStep, "[\\p{P}!-/:-@\\[-`{-~]", kGpt2Step},
       false,
       true},
  };
  return table;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

/// One spelling for those that mean the same.
std::string canonical(std::string step) {
  replace_all(step, "\r", "\\r");
  replace_all(step, "\n", "\\n");
  replace_all(step, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", kContractions);
  if (step == "\\p{N}") return kDigitsStep;
  const std::string gpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
  if (step == gpt2 || step == gpt2 + "|\\s+" || step == bpe::kGpt2Pattern) return kGpt2Step;
  return step;
}

Steps canonical(Steps steps) {
  for (std::string& step : steps) step = canonical(std::move(step));
  return steps;
}

bool is_false(const Json& json, const char* key) {
  const Json* value = json.find(key);
  return !value || value->is_null() || (value->is_bool() && !value->as_bool());
}

/// Appends what one pre-tokenizer does; false where that is no step.
bool add_step(const Json& json, bool last, Steps& steps) {
  const std::string& type = json.at("type").as_string();
  if (type == "ByteLevel") {
    const Json* regex = json.find("use_regex");
    if (!regex || regex->as_bool()) steps.push_back(kGpt2Step);
    return last && is_false(json, "add_prefix_space");
  }
  if (last) return false;  // the bytes must become letters
  if (type == "Digits" && !is_false(json, "individual_digits")) {
    steps.push_back(kDigitsStep);
    return true;
  }
  if (type != "Split" || !is_false(json, "invert")) return false;
  const Json* regex = json.at("pattern").find("Regex");
  if (!regex || json.at("behavior").as_string() != "Isolated") return false;
  steps.push_back(regex->as_string());
  return true;
}

}  // namespace

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> all = [] {
    std::vector<PreTokenizer> list;
    for (const Row& row : rows())
      for (const char* name : row.names)
        list.push_back({name, row.steps, row.whole_words_first, row.adds_bos, row.composes});
    return list;
  }();
  return all;
}

const PreTokenizer* pre_tokenizer(std::string_view name) {
  for (const PreTokenizer& row : pre_tokenizers())
    if (row.name == name) return &row;
  return nullptr;
}

std::vector<const PreTokenizer*> pre_tokenizers_of(const std::vector<std::string>& steps) {
  std::vector<const PreTokenizer*> found;
  const Steps wanted = canonical(steps);
  for (const PreTokenizer& row : pre_tokenizers())
    if (canonical(row.steps) == wanted) found.push_back(&row);
  return found;
}

std::optional<std::vector<std::string>> steps_of(const Json& pre_tokenizer) {
  Steps steps;
  if (pre_tokenizer.is_null()) return {};
  const bool single = pre_tokenizer.at("type").as_string() != "Sequence";
  const Json::Array items =
      single ? Json::Array{pre_tokenizer} : pre_tokenizer.at("pretokenizers").items();
  for (size_t i = 0; i < items.size(); ++i)
    if (!add_step(items[i], i + 1 == items.size(), steps)) return {};
  if (items.empty()) return {};
  return canonical(std::move(steps));
}

}  // namespace olm::nn::formats
