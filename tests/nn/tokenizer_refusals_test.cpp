#include <doctest/doctest.h>
#include <olm/nn/text.h>
#include <tests/support/temp_folder.h>
#include <tests/support/tokenizer_schemas.h>

#include <ctime>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// What reading says of a changed schema.
template <class Change>
std::string refusal(const std::string& name, Change&& change) {
  Json json = json_of(name);
  change(json);
  return message_of<Error>([&] { BpeTokenizer::from_json(json); });
}

}  // namespace

TEST_SUITE("nn/tokenizer pipeline") {
  TEST_CASE("what is not known is refused by its path") {
    const auto says = [&](const std::string& name, const char* what, auto&& change) {
      const std::string message = refusal(name, change);
      CHECK_MESSAGE(contains(message, what), message);
    };
    const auto typed = [](Json& j, const char* type) {
      j = Json::parse("{\"type\":\"" + std::string(type) + "\"}");
    };
    says("gpt2", "$.pre_tokenizer.type: the pre-tokenizer \"Magic\"",
         [&](Json& j) { typed(j["pre_tokenizer"], "Magic"); });
    says("qwen2", "$.normalizer.type: the normalizer \"Precompiled\"",
         [&](Json& j) { typed(j["normalizer"], "Precompiled"); });
    says("llama2", "$.decoder.decoders[4].type: the decoder \"CTC\"", [&](Json& j) {
      Json item, list = Json::array();
      for (const Json& one : j["decoder"]["decoders"].items()) list.push_back(one);
      typed(item, "CTC");
      list.push_back(item);
      j["decoder"]["decoders"] = list;
    });
    says("deepseek", "$.pre_tokenizer.pretokenizers[0].pretokenizers[1].type", [&](Json& j) {
      j["pre_tokenizer"] = Json::parse(
          R"({"type":"Sequence","pretokenizers":[{"type":"Sequence","pretokenizers":
             [{"type":"Digits"},{"type":"UnicodeScripts"}]}]})");
    });
    says("llama3", "$.post_processor.type: the post-processor \"Odd\"",
         [&](Json& j) { typed(j["post_processor"], "Odd"); });
    says("llama2", "does not hold the text A once",
         [](Json& j) { j["post_processor"]["single"] = Json::array(); });
    says("llama2", "$.post_processor.special_tokens: json: the name \"<s>\" is missing",
         [](Json& j) { j["post_processor"]["special_tokens"] = Json::object(); });
    for (const char* model : {"Unigram", "WordPiece", "WordLevel"})
      says("gpt2", "BPE was wanted", [&](Json& j) { j["model"]["type"] = model; });
    says("gpt2", "$.model.dropout", [](Json& j) { j["model"]["dropout"] = 0.1; });
    says("gpt2", "$.version", [](Json& j) { j["version"] = "2.0"; });
    says("llama3", "$.pre_tokenizer.pretokenizers[0].behavior: the behavior \"Odd\"", [](Json& j) {
      Json first = j["pre_tokenizer"]["pretokenizers"].at(size_t(0)), list = Json::array();
      first["behavior"] = "Odd";
      list.push_back(first);
      j["pre_tokenizer"]["pretokenizers"] = list;
    });
    says("first", "$.pre_tokenizer.prepend_scheme",
         [](Json& j) { j["pre_tokenizer"]["prepend_scheme"] = "sometimes"; });
    says("first", "one character was wanted",
         [](Json& j) { j["pre_tokenizer"]["replacement"] = "ab"; });
  }

  TEST_CASE("ids with holes, merges that lead nowhere and wrong kinds are refused") {
    const auto says = [&](const char* what, auto&& change) {
      const std::string message = refusal("gpt2", change);
      CHECK_MESSAGE(contains(message, what), message);
    };
    says("is not among 0 to", [](Json& j) { j["model"]["vocab"]["A"] = 2000; });
    says("is not among 0 to", [](Json& j) { j["model"]["vocab"]["A"] = -1; });
    says("is not among 0 to", [](Json& j) { j["model"]["vocab"]["A"] = "1"; });
    says("comes twice", [](Json& j) { j["model"]["vocab"]["A"] = 3; });
    says("\"zzz\" of a merge is not in the vocabulary",
         [](Json& j) { j["model"]["merges"].push_back(Json::parse(R"(["zzz","a"])")); });
    says("\"q0\" of a merge is not in the vocabulary",
         [](Json& j) { j["model"]["merges"].push_back(Json::parse(R"(["q","0"])")); });
    says("two spellings", [](Json& j) { j["model"]["merges"].push_back("a b"); });
    says("is not two tokens", [](Json& j) { j["model"]["merges"].push_back(Json::parse("[1]")); });
    says("a string was wanted", [](Json& j) { j["model"]["merges"].push_back(7); });
    says("$.added_tokens[0]: the added token", [](Json& j) {
      Json token = j["added_tokens"].at(size_t(0)), list = Json::array();
      token["id"] = 9000;
      list.push_back(token);
      j["added_tokens"] = list;
    });
    says("$.added_tokens[0].content",
         [](Json& j) { j["added_tokens"] = Json::parse(R"([{"id":520,"content":5}])"); });
    says("an empty added token",
         [](Json& j) { j["added_tokens"] = Json::parse(R"([{"id":520,"content":""}])"); });
    says("$.model: json: the name \"vocab\" is missing",
         [](Json& j) { j["model"] = Json::parse(R"({"type":"BPE"})"); });
  }

  TEST_CASE("wrong and hopeless expressions are one error") {
    const auto with = [&](const char* expression) {
      Json json = json_of("Isolated");
      Json split = Json::parse(R"({"type":"Split","behavior":"Isolated","invert":false})");
      split["pattern"]["Regex"] = expression;
      json["pre_tokenizer"] = split;
      return json;
    };
    for (const char* wrong :
         {"(", "[a", "a{2,1}", "[a&&b]", "[a[b]]", "\\K", "(?<n", "[\\W]", "\\xe9"})
      CHECK_MESSAGE(contains(message_of<Error>([&] { BpeTokenizer::from_json(with(wrong)); }),
                             "$.pre_tokenizer.pattern.Regex: the regular expression"),
                    wrong);
    // Oniguruma counts some signs of Latin-1 as letters of words, but not inside of brackets.
    const auto count = [&](const char* expression) {
      Json json = with(expression);
      json["pre_tokenizer"]["behavior"] = "Removed";
      return BpeTokenizer::from_json(json).encode("a\u00b2\u00bd_ \u2070").size();
    };
    CHECK(count("[\\w]") - count("\\w") == 2);
    const auto slow = BpeTokenizer::from_json(with("(a+a+)+[bc]"));
    CHECK(contains(message_of<Error>([&] { slow.encode(std::string(5000, 'a')); }),
                   "cannot be matched at byte offset 0"));
  }

  TEST_CASE("a text cannot grow without bound") {
    Json json = json_of("gpt2"), list = Json::array();
    const Json doubling =
        Json::parse(R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})");
    for (int i = 0; i < 40; ++i) list.push_back(doubling);
    json["normalizer"] = Json::parse(R"({"type":"Sequence"})");
    json["normalizer"]["normalizers"] = list;
    CHECK(contains(message_of<Error>([&] { BpeTokenizer::from_json(json).encode("a"); }),
                   "the text grows beyond"));
    json["normalizer"] = nullptr;
    list = Json::array();
    for (int i = 0; i < 40; ++i) list.push_back(Json::parse(R"({"type":"ByteLevel"})"));
    json["pre_tokenizer"] = Json::parse(R"({"type":"Sequence"})");
    json["pre_tokenizer"]["pretokenizers"] = list;
    CHECK(contains(message_of<Error>([&] { BpeTokenizer::from_json(json).encode("\n"); }),
                   "the text grows beyond"));
    for (int i = 0; i < 400; ++i) list.push_back(Json::parse(R"({"type":"Digits"})"));
    json["pre_tokenizer"]["pretokenizers"] = list;
    CHECK(contains(message_of<Error>([&] { BpeTokenizer::from_json(json); }),
                   "more than 256 pre-tokenizers"));
  }

  TEST_CASE("time is linear in the text") {
    const auto tokenizer = BpeTokenizer::from_json(json_of("llama2_many"));
    const std::clock_t start = std::clock();  // of this process alone, whatever others do
    for (const char* piece : {"<", " ", "\u2581", "a", "<<<<", "\n", "<s", "\xcc\x81"}) {
      std::string text;
      while (text.size() < 400'000) text += piece;
      CHECK(!tokenizer.encode(text).empty());
    }
    // One added token that begins at every place, and ends nowhere.
    Json json = json_of("gpt2"), token = json["added_tokens"].at(size_t(0));
    token["content"] = std::string(20'000, '<') + "!";
    token["id"] = 524;
    json["added_tokens"].push_back(token);
    const auto deep = BpeTokenizer::from_json(json);
    CHECK(!deep.encode(std::string(400'000, '<'), {.parse_special_tokens = true}).empty());
    // White space that is a token and takes all white space behind it.
    token["content"] = "\n";
    token["id"] = 525;
    token["rstrip"] = true;
    json["added_tokens"].push_back(token);
    const auto greedy = BpeTokenizer::from_json(json);
    const std::string lines(200'000, '\n');
    CHECK(greedy.encode(lines, {.parse_special_tokens = true}).size() == lines.size());
    CHECK(std::clock() - start < 20 * CLOCKS_PER_SEC);
  }
}
