#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text.h>
#include <tests/support/temp_folder.h>

#include <ctime>
#include <map>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
using Ids = std::vector<int32_t>;

namespace {

std::shared_ptr<const Tokenizer> fixture() {
  return load_tokenizer(OLM_FIXTURES "/bpe_tokenizer.json");
}

std::shared_ptr<const Tokenizer> train(const std::string& spec, std::string_view text) {
  return train_tokenizer(spec, std::span(&text, 1));
}

/// Of a text that may contain special tokens.
Ids encode_own(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.parse_special_tokens = true});
}

/// A tokenizer and the one read back from its JSON give the same ids.
void check_stored(const Tokenizer& tokenizer, std::string_view text) {
  const TempFolder folder;
  tokenizer.save(folder / "tokenizer.json");
  const auto loaded = load_tokenizer(folder.path());
  CHECK(loaded->name() == tokenizer.name());
  CHECK(loaded->vocab_size() == tokenizer.vocab_size());
  CHECK(loaded->eot_id() == tokenizer.eot_id());
  CHECK(loaded->encode(text) == tokenizer.encode(text));
  CHECK(loaded->hash() == tokenizer.hash());
}

/// The tokenizer of `json` with more added tokens.
std::shared_ptr<const Tokenizer> with_added(Json json, const Json& added,
                                            bool ignore_merges = false) {
  for (const Json& item : added.items()) json["added_tokens"].push_back(item);
  json["model"]["ignore_merges"] = ignore_merges;
  return load_tokenizer_from_text(json.dump());
}

Json added_token(const std::string& content, int64_t id) {
  Json item, list = Json::array();
  item["id"] = id;
  item["content"] = content;
  for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) item[key] = false;
  item["special"] = false;
  list.push_back(std::move(item));
  return list;
}

/// A text of `n` letters without a gap, different everywhere.
std::string long_word(size_t n) {
  std::string text;
  for (uint64_t state = 1; text.size() < n;
       state = state * 6364136223846793005u + 1442695040888963407u)
    text += char('a' + (state >> 33) % 26);
  return text;
}

}  // namespace

TEST_SUITE("nn/tokenizer") {
  TEST_CASE("bytes are their own ids") {
    const ByteTokenizer tokenizer;
    const std::string_view all("a\0\xff\xc3", 4);
    CHECK(tokenizer.encode(all) == Ids{97, 0, 255, 195});
    CHECK(tokenizer.decode(tokenizer.encode(all)) == all);
    CHECK(tokenizer.vocab_size() == 257);
    CHECK(tokenizer.eot_id() == 256);
    CHECK(tokenizer.decode(Ids{104, 256}) == "h<|endoftext|>");
    CHECK_THROWS_AS(tokenizer.token_bytes(257), Error);
    CHECK_THROWS_AS(tokenizer.token_bytes(-1), Error);
    check_stored(tokenizer, all);
  }

  TEST_CASE("characters are numbered in the order of their code points") {
    const auto tokenizer = train("char", "beé\ncab😀é");
    CHECK(tokenizer->vocab_size() == 7);
    CHECK(!tokenizer->eot_id());
    CHECK(tokenizer->encode("\nabceé😀") == Ids{0, 1, 2, 3, 4, 5, 6});
    CHECK(tokenizer->decode(Ids{6, 5, 1}) == "😀éa");
    check_stored(*tokenizer, "a😀\n");
    const std::string_view texts[] = {"ab", "c"};
    const auto joined = train_tokenizer("char", texts);
    CHECK(joined->vocab_size() == 4);
    CHECK(joined->eot_id() == 3);
    check_stored(*joined, "abc");
  }

  TEST_CASE("a byte-order mark at the start of a text is no character of a vocabulary") {
    const std::string_view marked[] =
        {"\xef\xbb\xbf"
         "aba",
         "b"},
                           plain[] = {"aba", "b"};
    CHECK(CharTokenizer::train(marked).to_json() == CharTokenizer::train(plain).to_json());
    const auto bpe = [](std::span<const std::string_view> texts) {
      return train_tokenizer("bpe:260", texts)->to_json();
    };
    CHECK(bpe(marked) == bpe(plain));
  }

  TEST_CASE("unknown characters and broken UTF-8 are named with their offset") {
    const auto tokenizer = train("char", "abé");
    auto message = [&](std::string_view text) {
      return message_of<Error>([&] { tokenizer->encode(text); });
    };
    CHECK(contains(message("abéz"),
                   "the character 'z' (U+007A) at byte offset 4 is not among the 3"));
    CHECK(contains(message("a\n"), "the character (U+000A) at byte offset 1"));
    CHECK(contains(message("ab\xff"), "not UTF-8: byte 255 at byte offset 2"));
    for (const char* bad : {"a\xc3", "a\xc0\x80", "a\xed\xa0\x80", "a\xf4\x90\x80\x80", "a\x80",
                            "a\xe2\x82", "a\xf0\x9f\x98", "a\xf8"}) {
      CHECK_MESSAGE(contains(message(bad), "at byte offset 1"), bad);
      CHECK_THROWS_AS(train("char", bad), Error);
      CHECK_THROWS_AS(train("bpe:300", bad), Error);
      CHECK_THROWS_AS(fixture()->encode(bad), Error);
    }
  }

  TEST_CASE("BPE gives the ids of the tokenizers library") {
    const auto tokenizer = fixture();
    const Json cases = read_json(OLM_FIXTURES "/bpe_cases.json");
    for (const Json& one : cases.items()) {
      const std::string& text = one.at("text").as_string();
      Ids wanted;
      for (const Json& id : one.at("ids").items()) wanted.push_back(int32_t(id.as_int()));
      CHECK_MESSAGE(encode_own(*tokenizer, text) == wanted, text);
      CHECK(tokenizer->decode(wanted) == text);
      check_stored(*tokenizer, text);
    }
    CHECK(tokenizer->eot_id() == 0);
    CHECK(tokenizer->name() == "bpe:671");
  }

  TEST_CASE("BPE learns the most frequent pairs first, of equal ones the smaller") {
    const auto tokenizer = train("bpe:259", "abab abab cd cd zz zz");
    // "ab" comes 4 times; then 20 "c" and others twice, and "ab"+"ab" twice: the smallest ids win.
    CHECK(tokenizer->token_bytes(257) == "ab");
    CHECK(tokenizer->token_bytes(258) == " c");
    CHECK(tokenizer->encode("abab cd") == Ids{257, 257, 258, 'd'});
    check_stored(*tokenizer, "abab cd");
  }

  TEST_CASE("a learned vocabulary holds each token once and encodes its own text") {
    std::string text;
    for (int i = 0; i < 300; ++i)
      text +=
          "word" + std::to_string(i % 17) + " über 你好" + std::to_string(i * 7919 % 101) + "\n";
    const auto tokenizer = train("bpe:500", text);
    CHECK(tokenizer->vocab_size() > 300);
    std::map<std::string_view, int> seen;
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id)
      CHECK(++seen[tokenizer->token_bytes(id)] == 1);
    const Ids ids = tokenizer->encode(text);
    CHECK(ids.size() < text.size() / 2);
    CHECK(tokenizer->decode(ids) == text);
    CHECK(train("bpe:500", text)->hash() == tokenizer->hash());
    check_stored(*tokenizer, text);
    // No pair comes twice in so short a text.
    CHECK(train("bpe:4096", "abc")->vocab_size() == 257);
  }

  TEST_CASE("special tokens in the text get their id where asked for") {
    const auto tokenizer = train("bpe:300", "one two");
    CHECK(encode_own(*tokenizer, "a<|endoftext|>b") == Ids{'a', 256, 'b'});
    CHECK(encode_own(*tokenizer, "<|endoftext|>") == Ids{256});
    CHECK(tokenizer->encode("<|endoftext|>").size() == kEndOfText.size());
    CHECK(tokenizer->encode("") == Ids{});
  }

  TEST_CASE("bytes and characters know <|endoftext|> where asked for") {
    const std::string_view letters[] = {"ab<|>endofxt"};
    const CharTokenizer chars = CharTokenizer::train(letters, true);
    const ByteTokenizer bytes;
    const std::string text = "a<|endoftext|><|endoftext|>b";
    for (const Tokenizer* tokenizer :
         {static_cast<const Tokenizer*>(&chars), static_cast<const Tokenizer*>(&bytes)}) {
      const auto ids = tokenizer->encode(text, {.parse_special_tokens = true});
      CHECK(ids.size() == 4);
      CHECK(ids.at(1) == *tokenizer->eot_id());
      CHECK(ids.at(2) == *tokenizer->eot_id());
      CHECK(tokenizer->decode(ids) == text);
      CHECK(tokenizer->encode(text).size() == text.size());
    }
  }

  TEST_CASE("added tokens are found as the tokenizers library finds them") {
    const Json base = read_json(OLM_FIXTURES "/bpe_tokenizer.json");
    const Json sets = read_json(OLM_FIXTURES "/bpe_added_cases.json");
    CHECK(sets.size() == 29);
    for (const Json& set : sets.items()) {
      const auto tokenizer = with_added(base, set.at("added"), set.at("ignore_merges").as_bool());
      for (const Json& one : set.at("cases").items()) {
        const std::string& text = one.at("text").as_string();
        Ids wanted;
        for (const Json& id : one.at("ids").items()) wanted.push_back(int32_t(id.as_int()));
        CHECK_MESSAGE(encode_own(*tokenizer, text) == wanted, text, " with ",
                      set.at("added").dump());
      }
      check_stored(*tokenizer, set.at("cases").items().back().at("text").as_string());
    }
  }

  TEST_CASE("an added token that is a letter of the byte table leaves the bytes as they are") {
    const Json base = read_json(OLM_FIXTURES "/bpe_tokenizer.json");
    const Json& vocabulary = base.at("model").at("vocab");
    const std::string text = "the caf\u00e9 on the\n hill";
    const Ids plain = fixture()->encode(text);
    for (const char* letter : {"\u0120", "\u010a", "\u00e9", "\u0120the"}) {
      const auto tokenizer = with_added(base, added_token(letter, vocabulary.at(letter).as_int()));
      if (letter != std::string("\u00e9")) CHECK(tokenizer->encode(text) == plain);
      CHECK(tokenizer->decode(plain) == text);
      CHECK(tokenizer->vocab_size() == int64_t(vocabulary.size()));
      check_stored(*tokenizer, text + letter);
      CHECK_THROWS_AS(with_added(base, added_token(letter, int64_t(vocabulary.size()))), FileError);
    }
    // One that words never give stands for its own text.
    const auto tokenizer =
        with_added(base, added_token("<|caf\u00e9|>", int64_t(vocabulary.size())));
    CHECK(tokenizer->encode("a<|caf\u00e9|>").back() == int32_t(vocabulary.size()));
    CHECK(tokenizer->token_bytes(int32_t(vocabulary.size())) == "<|caf\u00e9|>");
  }

  TEST_CASE("a word of a megabyte takes no quadratic time") {
    const std::string word = long_word(1'000'000);
    const std::clock_t start = std::clock();  // of this process alone, whatever others do
    const auto tokenizer = train("bpe:300", word);
    CHECK(tokenizer->decode(tokenizer->encode(word)) == word);
    CHECK(tokenizer->encode(std::string(1'000'000, ' ')).size() > 0);
    CHECK(std::clock() - start < 60 * CLOCKS_PER_SEC);
  }

  TEST_CASE("an expression of its own is kept, and a hopeless one stopped") {
    Json json = read_json(OLM_FIXTURES "/bpe_tokenizer.json");
    json["pre_tokenizer"] = Json::parse(
        R"({"type":"Sequence","pretokenizers":[
          {"type":"Split","pattern":{"Regex":"[a-z]"},"behavior":"Isolated","invert":false},
          {"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
    const auto letters = load_tokenizer_from_text(json.dump());
    CHECK(letters->encode("the").size() == 3);  // each letter is a word
    check_stored(*letters, "the THE");
    Json& steps = json["pre_tokenizer"]["pretokenizers"];
    auto with = [&](const char* pattern) {
      Json split = steps.items()[0], copy;
      split["pattern"]["Regex"] = pattern;
      copy.push_back(split);
      copy.push_back(steps.items()[1]);
      json["pre_tokenizer"]["pretokenizers"] = copy;
      return load_tokenizer_from_text(json.dump());
    };
    CHECK_THROWS_AS(with("(((a|b)*)*)*c(")->encode("a"), FileError);
    CHECK_THROWS_AS(with("(a+a+)+[bc]")->encode(std::string(5000, 'a')), Error);
    CHECK(with("x*")->encode("the").size() == 3);  // an empty match cuts, too
  }

  TEST_CASE("characters are streamed when they are whole") {
    const ByteTokenizer tokenizer;
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const int32_t id : tokenizer.encode("a\xe2\x82")) text += stream.push(id);
    CHECK(text == "a");
    CHECK(stream.push(0xac) == "€");
    CHECK(stream.push(0xff) == "\xef\xbf\xbd");
    CHECK(stream.push(0xf0) == "");
    CHECK(stream.push('b') ==
          "\xef\xbf\xbd"
          "b");
    CHECK(stream.push(0xf0) == "");
    CHECK(stream.finish() == "\xef\xbf\xbd");
    CHECK(stream.finish() == "");
  }

  TEST_CASE("tokenizers are made by name") {
    for (const char* spec : {"", "bytes", "bpe", "bpe:", "bpe:x", "bpe:12x", "bpe:256", "bpe:-5",
                             "bpe:99999999999999999999", "bpe:2000000"})
      CHECK_THROWS_AS(train(spec, "text"), Error);
    CHECK(contains(message_of<Error>([&] { train("words", "x"); }),
                   "byte, char or bpe:N was wanted"));
    CHECK(train("byte", "x")->name() == "byte");
    CHECK(train("bpe:257", "x")->name() == "bpe:257");
  }
}

TEST_SUITE("nn/tokenizer files") {
  TEST_CASE("missing and broken files are refused by name") {
    const TempFolder folder;
    CHECK(contains(message_of<FileError>([&] { load_tokenizer(folder.path()); }),
                   folder.path() + ": no vocabulary; tokenizer.json"));
    auto message = [](std::string_view text) {
      const std::string what =
          message_of<FileError>([&] { load_tokenizer_from_text(text, "t.json"); });
      CHECK_MESSAGE(what.starts_with("t.json: "), text);
      return what;
    };
    CHECK(contains(message("{"), "not valid JSON"));
    CHECK(contains(message("[]"), "an object was wanted"));
    CHECK(contains(message("{}"), "\"model\" is missing"));
    CHECK(contains(message(R"({"type":"word"})"), "unknown type \"word\""));
    CHECK(contains(message(R"({"type":1})"), "a string was wanted"));
    CHECK(contains(message(R"({"type":"char"})"), "\"characters\" is missing"));
    CHECK(contains(message(R"({"type":"char","characters":["ab"],"end_of_text":false})"),
                   "not one character"));
    CHECK(contains(message(R"({"type":"char","characters":[""],"end_of_text":false})"),
                   "not one character"));
    CHECK(contains(message(R"({"type":"char","characters":["a","a"],"end_of_text":false})"),
                   "comes twice"));
    const std::string whole = read_file(OLM_FIXTURES "/bpe_tokenizer.json");
    for (size_t length = 0; length + 2 < whole.size(); length += 997)
      message(std::string_view(whole).substr(0, length));
  }

  TEST_CASE("what a BPE file must not say is refused") {
    const Json good = read_json(OLM_FIXTURES "/bpe_tokenizer.json");
    auto message = [&](auto&& change) {
      Json json = good;
      change(json);
      return message_of<FileError>([&] { load_tokenizer_from_text(json.dump()); });
    };
    auto vocab = [](Json& j) -> Json& { return j["model"]["vocab"]; };
    CHECK(message([](Json&) {}) == "");
    CHECK(contains(message([&](Json& j) { vocab(j)["a"] = -1; }), "is not among"));
    CHECK(contains(message([&](Json& j) { vocab(j)["a"] = 2'000'000'000; }), "is not among"));
    CHECK(contains(message([&](Json& j) { vocab(j)["a"] = 70; }), "comes twice"));
    CHECK(contains(message([&](Json& j) { vocab(j) = Json::object(); }), "not in the vocabulary"));
    CHECK(
        contains(message([&](Json& j) { j["model"]["merges"].push_back("a"); }), "not two tokens"));
    CHECK(contains(message([&](Json& j) { j["model"]["type"] = "Unigram"; }), "BPE was wanted"));
    CHECK(contains(message([&](Json& j) { j["normalizer"]["type"] = "Bert"; }), "$.normalizer"));
  }
}
