#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text.h>
#include <tests/support/temp_folder.h>
#include <tests/support/tokenizer_schemas.h>

#include <cstdlib>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// All that is compared for a text.
struct Results {
  Ids plain, ids, added;
  std::string decoded, skipped;
};

/// The fixture's digest: FNV-1a of 32 bits.
std::string digest(const Results& results, char decodes) {
  uint32_t hash = 0x811c9dc5;
  const auto feed = [&](std::string_view bytes) {
    for (const char byte : bytes) hash = (hash ^ uint8_t(byte)) * 0x01000193;
  };
  for (const Ids* ids : {&results.plain, &results.ids, &results.added}) {
    for (const int32_t id : *ids)
      for (int shift = 0; shift < 32; shift += 8) feed(std::string(1, char(id >> shift & 0xff)));
    feed("|");
  }
  if (decodes > '0') feed(results.decoded);
  feed("|");
  if (decodes > '1') feed(results.skipped);
  char text[9];
  std::snprintf(text, sizeof text, "%08x", hash);
  return text;
}

Results results_of(const Tokenizer& tokenizer, const std::string& text, int64_t number) {
  Results results;
  results.plain = tokenizer.encode(text);
  results.ids = tokenizer.encode(text, {.parse_special_tokens = true});
  results.added =
      tokenizer.encode(text, {.add_special_tokens = true, .parse_special_tokens = true});
  Ids shown = results.ids;
  if (number % 5 >= 3) {
    shown.clear();
    for (int64_t i = 0; i < number % 8; ++i)
      shown.push_back(int32_t((number * 7919 + i * i * 104729) % tokenizer.vocab_size()));
  }
  results.decoded = tokenizer.decode(shown);
  results.skipped = tokenizer.decode(shown, true);
  return results;
}

}  // namespace

TEST_SUITE("nn/tokenizer pipeline") {
  TEST_CASE("every schema gives the ids and texts of the tokenizers library") {
    const Json::Array& texts = fixture().at("texts").items();
    CHECK(fixture().at("schemas").size() >= 38);
    for (const Json& one : fixture().at("schemas").items()) {
      CAPTURE(one.at("name").as_string());
      const auto tokenizer = BpeTokenizer::from_json(whole(fixture(), one));
      for (const Json& row : one.at("cases").items()) {
        const std::string& text = row.at("text").as_string();
        CAPTURE(text);
        CHECK(tokenizer.encode(text) == ids_of(row.at("plain")));
        CHECK(tokenizer.encode(text, {.parse_special_tokens = true}) == ids_of(row.at("ids")));
        if (row.contains("decoded"))
          CHECK(tokenizer.decode(ids_of(row.at("shown"))) == row.at("decoded").as_string());
      }
      const std::string& digests = one.at("digests").as_string();
      for (size_t i = 0; i < texts.size(); ++i) {
        const std::string wanted = digests.substr(i * 8, 8);
        if (wanted[0] == '-') continue;  // the library panics
        const std::string& text = texts[i].as_string();
        CHECK_MESSAGE(digest(results_of(tokenizer, text, int64_t(i)),
                             one.at("decodes").as_string()[i]) == wanted,
                      text);
      }
    }
  }

  TEST_CASE("saving gives back an equal tokenizer.json") {
    const TempFolder folder;
    for (const Json& one : fixture().at("schemas").items()) {
      Json json = whole(fixture(), one);
      json["truncation"] = Json::parse(R"({"direction":"Right","max_length":7})");
      json["padding"] = Json::parse(R"({"pad_id":2,"pad_token":"</s>"})");
      json["of_another_version"] = 1.5;
      BpeTokenizer::from_json(json).save(folder / "tokenizer.json");
      CHECK(read_json(folder / "tokenizer.json") == json);
    }
    // Merges as text, and a vocabulary that is not in the order of its ids.
    Json json = json_of("gpt2"), merges = Json::array(), vocabulary = Json::object();
    for (const Json& merge : json.at("model").at("merges").items())
      merges.push_back(merge.at(size_t(0)).as_string() + " " + merge.at(1).as_string());
    const Json::Object members = json.at("model").at("vocab").members();
    for (size_t i = members.size(); i-- > 0;)
      vocabulary.append(members[i].first, members[i].second);
    json["model"] = with_merges(json.at("model"), vocabulary, merges);
    CHECK(BpeTokenizer::from_json(json).to_json() == json);
  }

  TEST_CASE("special tokens have their ids only where the text may contain them") {
    const auto tokenizer = BpeTokenizer::from_json(json_of("llama3"));
    const std::string text = "<tool>a<|endoftext|>b";
    const int32_t end = *tokenizer.eot_id(), tool = *tokenizer.id_of("<tool>");
    const Ids found = tokenizer.encode(text, {.parse_special_tokens = true});
    const Ids plain = tokenizer.encode(text);
    CHECK(std::count(found.begin(), found.end(), end) == 1);
    CHECK(std::count(plain.begin(), plain.end(), end) == 0);
    CHECK(plain[0] == tool);
    CHECK(tokenizer.decode(plain) == text);
    CHECK(tokenizer.decode(found, true) == "<tool>ab");
    CHECK(tokenizer.encode("a", {.add_special_tokens = true})[0] == *tokenizer.id_of("<s>"));
  }

  TEST_CASE("the ids that have a role are known") {
    const auto llama = BpeTokenizer::from_json(json_of("llama2"));
    SpecialTokens special = llama.special();
    CHECK(special.bos == llama.id_of("<s>"));
    CHECK(special.eos == llama.id_of("</s>"));
    CHECK(special.unk == llama.id_of("<unk>"));
    CHECK(special.adds_bos);
    CHECK(special.adds_eos);
    const auto other = llama.with_special({.bos = 5, .pad = 7});
    CHECK(other.special().bos == 5);
    CHECK(other.special().pad == 7);
    CHECK(other.special().adds_bos);
    CHECK(other.special().eos == special.eos);
    CHECK(other.special().unk == special.unk);
    CHECK_THROWS_AS(llama.with_special({.bos = int32_t(llama.vocab_size())}), Error);
    const auto gpt = BpeTokenizer::from_json(json_of("gpt2"));
    CHECK(gpt.special().eos == gpt.id_of("<|endoftext|>"));
    CHECK(!gpt.special().bos);
    CHECK(!gpt.special().adds_bos);
  }

  TEST_CASE("characters that the vocabulary lacks are counted") {
    const auto tokenizer = BpeTokenizer::from_json(json_of("missing_bytes"));
    int64_t dropped = 0;  // the letter of byte 3 is missing
    CHECK(tokenizer.encode("th\x03\x03 the", {.dropped = &dropped}) == tokenizer.encode("th the"));
    CHECK(dropped == 2);
    tokenizer.encode("\x03 \x03", {.dropped = &dropped});
    CHECK(dropped == 4);
    dropped = 0;
    tokenizer.encode("the cat", {.dropped = &dropped});
    CHECK(dropped == 0);
    const auto chars = BpeTokenizer::from_json(json_of("never"));
    chars.encode("the\U0001f600\U0001f601", {.dropped = &dropped});
    CHECK(dropped == 2);
  }

  TEST_CASE("a continuation keeps the space that the start of a text loses") {
    const auto tokenizer = BpeTokenizer::from_json(json_of("llama2"));
    const Ids ids = tokenizer.encode("the cat");
    CHECK(tokenizer.decode(ids) == "the cat");
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const int32_t id : ids) text += stream.push(id);
    CHECK(text == " the cat");
    const int32_t byte = *tokenizer.id_of("<0xE2>");
    CHECK(tokenizer.token_bytes(byte) == "\xe2");
    CHECK(stream.push(byte) == "");
    CHECK(stream.push(*tokenizer.id_of("<0x82>")) == "");
    CHECK(stream.push(*tokenizer.id_of("<0xAC>")) == "\u20ac");
  }

  TEST_CASE("merges reach over a space where there are such") {
    Json json = json_of("never");
    json["added_tokens"] = Json::array();
    json["pre_tokenizer"] = nullptr;
    json["normalizer"] =
        Json::parse(R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"})");
    json["model"] =
        with_merges(json.at("model"), Json::parse(R"({"\u2581":0,"a":1,"b":2,"a\u2581":3})"),
                    Json::parse(R"([["a","\u2581"]])"));
    const auto tokenizer = BpeTokenizer::from_json(json);
    CHECK(tokenizer.encode("a b a") == Ids{3, 2, 0, 1});
  }

  TEST_CASE("byte and character tokenizers have a tokenizer.json with equal ids") {
    const ByteTokenizer bytes;
    const auto as_bpe = BpeTokenizer::from_json(hugging_face_json(bytes));
    for (const Json& text : fixture().at("texts").items()) {
      CHECK(as_bpe.encode(text.as_string()) == bytes.encode(text.as_string()));
      CHECK(as_bpe.decode(bytes.encode(text.as_string())) == text.as_string());
    }
    CHECK(as_bpe.vocab_size() == 257);
    CHECK(as_bpe.eot_id() == 256);
    const std::string_view texts[] = {"the caf\u00e9 \u4f60\n", "hat"};
    const auto chars = CharTokenizer::train(texts, true);
    const auto chars_as_bpe = BpeTokenizer::from_json(hugging_face_json(chars));
    CHECK(chars_as_bpe.encode(texts[0]) == chars.encode(texts[0]));
    CHECK(chars_as_bpe.decode(chars.encode(texts[0])) == texts[0]);
    CHECK(chars_as_bpe.eot_id() == chars.eot_id());
    int64_t dropped = 0;
    CHECK(chars_as_bpe.encode("zth", {.dropped = &dropped}) == chars.encode("th"));
    CHECK(dropped == 1);
    const auto bpe = BpeTokenizer::train(texts, 260);
    CHECK(hugging_face_json(bpe) == bpe.to_json());
  }

  // Made by tests/fixtures/make_tokenizer_pipeline_fixtures.py --random.
  TEST_CASE("texts of a folder that OLM_TOKENIZER_CASES names" * doctest::skip()) {
    const char* folder = std::getenv("OLM_TOKENIZER_CASES");
    REQUIRE(folder);
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".json") continue;
      const auto tokenizer = BpeTokenizer::from_json(read_json(entry.path().string()));
      std::ifstream lines(entry.path().string() + "l");
      size_t count = 0, others = 0;
      for (std::string line; std::getline(lines, line); ++count) {
        const Json row = Json::parse(line);
        const std::string& text = row.at("text").as_string();
        const Ids shown = ids_of(row.at("shown"));
        const bool same =
            tokenizer.encode(text) == ids_of(row.at("plain")) &&
            tokenizer.encode(text, {.parse_special_tokens = true}) == ids_of(row.at("ids")) &&
            tokenizer.encode(text, {.add_special_tokens = true, .parse_special_tokens = true}) ==
                ids_of(row.at("added")) &&
            (!row.contains("decoded") ||
             tokenizer.decode(shown) == row.at("decoded").as_string()) &&
            (!row.contains("skipped") ||
             tokenizer.decode(shown, true) == row.at("skipped").as_string());
        if (!same && others++ < 5) MESSAGE("differs: ", Json(text).dump());
      }
      MESSAGE(entry.path().filename().string(), ": ", count, " texts, ", others, " differ");
      CHECK(count > 0);
      CHECK(others == 0);
    }
  }
}
