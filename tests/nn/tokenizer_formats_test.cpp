#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text/formats_internal.h>
#include <tests/support/temp_folder.h>
#include <tests/support/tokenizer_cases.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::formats;
using namespace olm::test;

namespace {

void check_role(const Json& wanted, const char* key, std::optional<int32_t> id) {
  CAPTURE(key);
  if (wanted.contains(key)) CHECK(id == int32_t(wanted.at(key).as_int()));
}

TiktokenScheme tiny_scheme() {
  const Json& json = cases().at("files").at("tiny.tiktoken");
  TiktokenScheme scheme = {.pattern = json.at("pattern").as_string(), .eos = "<|endoftext|>"};
  for (const auto& [text, id] : json.at("special").members())
    scheme.special.emplace_back(text, int32_t(id.as_int()));
  return scheme;
}

}  // namespace

TEST_SUITE("nn/text/formats") {
  TEST_CASE("each format gives the ids of its own program") {
    for (const auto& [name, wanted] : cases().at("files").members()) {
      if (name == "tiny.tiktoken") continue;  // its name says no encoding
      CAPTURE(name);
      const auto tokenizer = load_tokenizer(kFolder + name);
      check_ids(*tokenizer, wanted.at("ids"));
      const SpecialTokens special = tokenizer->special();
      check_role(wanted, "bos", special.bos);
      check_role(wanted, "eos", special.eos);
      check_role(wanted, "unk", special.unk);
      check_role(wanted, "pad", special.pad);
      // What is saved is a tokenizer.json that gives the same ids.
      const TempFolder folder;
      tokenizer->save(folder / "tokenizer.json");
      check_ids(*load_tokenizer(folder / "tokenizer.json"), wanted.at("ids"));
    }
  }

  TEST_CASE("tiktoken's ranks, with the expression and the special tokens of a scheme") {
    const auto ranks = read_ranks(read_file(kFolder + "tiny.tiktoken"));
    const auto tokenizer = make_tokenizer(read_tiktoken(ranks, tiny_scheme()));
    const Json& wanted = cases().at("files").at("tiny.tiktoken");
    check_ids(*tokenizer, wanted.at("ids"));
    check_ids(*tokenizer, wanted.at("special_ids"), {.parse_special_tokens = true});
    CHECK(tokenizer->special().eos == int32_t(ranks.size()));
    CHECK(tiktoken_scheme_of("x/cl100k_base.tiktoken", 3).special.size() == 5);
    CHECK(tiktoken_scheme_of("x/tokenizer.model", 128000).adds_bos);
    CHECK(tiktoken_scheme_of("x/qwen.tiktoken", 151643).composes);
    CHECK(contains(message_of<Error>([&] { tiktoken_scheme_of("x/tokenizer.model", 77); }),
                   "77 ranks"));
  }

  TEST_CASE("a possessive count of tiktoken's expressions is a repetition in tokenizer.json") {
    CHECK(without_possessive_counts("\\p{N}{1,3}+|\\p{L}+") == "\\p{N}{1,3}|\\p{L}+");
    CHECK(without_possessive_counts("(a{2}+)") == "(a{2})");
    CHECK(contains(message_of<Error>([] { without_possessive_counts("a{2}+b"); }), "byte 4"));
  }

  TEST_CASE("a vocabulary with holes and twins") {
    CHECK(contains(message_of<Error>([] { read_ranks("YQ== 0\nYg== 2\n"); }),
                   "line 2 has rank 2, 1 was"));
    CHECK(contains(message_of<Error>([] { read_ranks("YQ== 0\n*** 1\n"); }), "line 2"));
    CHECK(contains(message_of<Error>([] {
                     read_tiktoken({"a", "a"}, tiktoken_scheme("cl100k_base"));
                   }),
                   "comes twice"));
    CHECK(contains(message_of<Error>([] { read_tiktoken({std::string(2000, 'a')}, {}); }),
                   "2000 bytes"));
  }

  TEST_CASE(
      "bos goes before a text of a SentencePiece model unless tokenizer_config.json says no") {
    const TempFolder folder;
    const std::string model = read_file(kFolder + "bpe.model");
    folder.file("tokenizer.model", model);
    auto first = [&] {
      return load_tokenizer(folder.path())->encode("the", {.add_special_tokens = true}).front();
    };
    CHECK(first() == 1);
    folder.file("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true})");
    CHECK(first() != 1);
    const auto tokenizer = load_tokenizer(folder.path());
    CHECK(tokenizer->encode("the", {.add_special_tokens = true}).back() == 2);
    CHECK(tokenizer->special().adds_eos);
    CHECK_FALSE(tokenizer->special().adds_bos);
  }

  TEST_CASE("tokenizer_config.json names the ids that have a role") {
    const TempFolder folder;
    folder.file("vocab.json", read_file(kFolder + "gpt2/vocab.json"));
    folder.file("merges.txt", read_file(kFolder + "gpt2/merges.txt"));
    folder.file("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "b",
      "added_tokens_decoder": {"407": {"content": "<s>", "special": true}}})");
    folder.file("special_tokens_map.json", R"({"eos_token": "c", "pad_token": "d"})");
    const auto tokenizer = load_tokenizer(folder.path());
    const SpecialTokens special = tokenizer->special();
    CHECK(special.bos == 407);
    CHECK(tokenizer->token_bytes(special.eos.value()) == "b");
    CHECK(tokenizer->token_bytes(special.pad.value()) == "d");
    CHECK(tokenizer->encode("<s>", {.parse_special_tokens = true}) == Ids{407});
    CHECK(tokenizer->encode("<s>").size() > 1);

    Vocabulary vocabulary = read_vocab_and_merges(read_file(kFolder + "gpt2/vocab.json"), "a b\n");
    CHECK(contains(message_of<Error>([&] {
                     apply_tokenizer_config(
                         config_of(R"({"added_tokens_decoder": {"3": {"content": "<s>"}}})"), {},
                         true, vocabulary);
                   }),
                   "id 3 is \"<s>\""));
  }

  TEST_CASE("a tokenizer.json alone names the ids that its parts name") {
    const TempFolder folder;
    load_tokenizer(kFolder + "bpe.model")->save(folder / "tokenizer.json");
    SpecialTokens special = load_tokenizer(folder / "tokenizer.json")->special();
    CHECK(special.bos == 1);
    CHECK(special.unk == 0);
    CHECK_FALSE(special.eos.has_value());
    folder.file("tokenizer_config.json", R"({"eos_token": "</s>"})");
    special = load_tokenizer(folder.path())->special();
    CHECK(special.bos == 1);
    CHECK(special.eos == 2);
  }

  TEST_CASE("flags of added tokens come from tokenizer_config.json where the vocabulary has none") {
    const TempFolder folder;
    folder.file("tokenizer.model", read_file(kFolder + "bpe.model"));
    folder.file("tokenizer_config.json",
                R"({"added_tokens_decoder": {"2": {"content": "</s>", "rstrip": true}}})");
    const EncodeOptions special = {.parse_special_tokens = true};
    const auto tokenizer = load_tokenizer(folder.path());
    CHECK(tokenizer->encode("</s>  ", special) == Ids{2});
    CHECK(tokenizer->encode("</s>").size() > 1);  // special as before
    // A tokenizer.json says it itself.
    load_tokenizer(kFolder + "bpe.model")->save(folder / "tokenizer.json");
    CHECK(load_tokenizer(folder.path())->encode("</s>  ", special).size() > 1);
  }

  TEST_CASE("tokenizer_config.json as transformers wants it") {
    const auto tokenizer = load_tokenizer(kFolder + "gpt2.gguf");
    const Json before = config_of(R"({"bos_token": {"content": "<|begin|>", "lstrip": true},
      "eos_token": "old", "legacy": true, "tokenizer_class": "LlamaTokenizer"})");
    const Json json = tokenizer_config_json(*tokenizer, 64, before);
    CHECK(json.at("bos_token").at("lstrip").as_bool());
    CHECK(json.at("eos_token").as_string() == "<|im_end|>");
    CHECK_FALSE(json.contains("unk_token"));
    CHECK(json.at("tokenizer_class").as_string() == "PreTrainedTokenizerFast");
    CHECK_FALSE(json.at("clean_up_tokenization_spaces").as_bool());
    CHECK(json.at("model_max_length").as_int() == 64);
    CHECK(json.at("legacy").as_bool());
    CHECK(tokenizer_warning("qwen3", *tokenizer).empty());
    CHECK_FALSE(tokenizer_warning("qwen2", *tokenizer).empty());
    Json qwen = tokenizer->to_json();
    qwen["pre_tokenizer"] = pre_tokenizer_json(pre_tokenizer("qwen2")->steps);
    CHECK_FALSE(tokenizer_warning("qwen2", BpeTokenizer::from_json(qwen)).empty());
    qwen["normalizer"] = config_of(R"({"type": "NFC"})");
    CHECK(tokenizer_warning("qwen2", BpeTokenizer::from_json(qwen)).empty());
  }

  TEST_CASE("what is not read is refused by name") {
    const TempFolder folder;
    folder.file("empty", "");
    folder.file("text", "some text\n");
    folder.file("list.json", "[1]");
    folder.file("alone/vocab.json", R"({"a": 0})");
    folder.file("nothing/readme", "");
    folder.file("two/a.tiktoken", "");
    folder.file("two/b.tiktoken", "");
    const std::vector<std::pair<std::string, const char*>> table = {
        {kFolder + "unigram.model", "type Unigram"},
        {kFolder + "word.model", "type word"},
        {kFolder + "char.model", "type char"},
        {kFolder + "nmt.model", "normaliser \"nmt_nfkc\""},
        {kFolder + "refused_bert.gguf", "tokenizer.ggml.model \"bert\""},
        {kFolder + "refused_t5.gguf", "tokenizer.ggml.model \"t5\""},
        {kFolder + "refused_rwkv.gguf", "tokenizer.ggml.model \"rwkv\""},
        {kFolder + "refused_gpt2.gguf", "tokenizer.ggml.pre \"nobody-knows\""},
        {folder / "empty", "tokenizer.json, vocab.json"},
        {folder / "text", "tokenizer.json, vocab.json"},
        {folder / "list.json", "tokenizer.json, vocab.json"},
        {folder / "alone/vocab.json", "no merges.txt beside it"},
        {folder / "nothing", "no vocabulary"},
        {folder / "two", "2 files *.tiktoken"},
        {folder / "missing", "missing"},
    };
    for (const auto& [path, wanted] : table) {
      const std::string message = message_of<Error>([&, &path = path] { load_tokenizer(path); });
      CAPTURE(message);
      CHECK(message.find(path.substr(path.find_last_of('/') + 1)) != std::string::npos);
      CHECK(contains(message, wanted));
      CHECK_THROWS_AS(load_tokenizer(path), FileError);
    }
  }

  TEST_CASE("a SentencePiece model whose merges give a piece of type unused is refused") {
    const auto field = [](char key, const std::string& bytes) {
      return key + std::string(1, char(bytes.size())) + bytes;
    };
    const auto piece = [&](const std::string& text, char type) {
      return field('\x0a', field('\x0a', text) + "\x18" + type);
    };
    const std::string head = field('\x12', "\x18\x02") + piece("<unk>", 2) + piece("a", 1);
    CHECK(contains(message_of<Error>([&] { read_sentencepiece(head + piece("aa", 5)); }),
                   "the piece \"aa\" of type unused"));
    CHECK(read_sentencepiece(head + piece("aa", 1)).special.unk == 0);
    CHECK(read_sentencepiece(head + piece("ab", 5)).special.unk == 0);
  }

  TEST_CASE("a damaged SentencePiece model is an error or a model, and nothing else") {
    const std::string good = read_file(kFolder + "unknown.model");
    auto try_it = [](const std::string& bytes) {
      try {
        read_sentencepiece(bytes);
      } catch (const Error&) {}
    };
    for (size_t cut = 0; cut < good.size(); cut += 3) try_it(good.substr(0, cut));
    uint64_t state = 7;
    for (int i = 0; i < 300; ++i) {
      std::string bytes = good;
      for (int flips = 0; flips < 3; ++flips) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[(state >> 33) % bytes.size()] = char(state >> 20);
      }
      try_it(bytes);
    }
    // A length beyond the file, a number without end, and a group, which is not used any more.
    for (const char* bytes :
         {"\x0a\xff\xff\xff\xff\x0f", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x0b\x0c"})
      CHECK_THROWS_AS(read_sentencepiece(bytes), Error);
  }
}
