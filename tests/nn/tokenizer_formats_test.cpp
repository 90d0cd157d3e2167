#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>
#include <tests/support/temp_folder.h>

#include <limits>
#include <set>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::formats;
using namespace olm::test;
using Ids = std::vector<int32_t>;

namespace {

const std::string kFolder = OLM_FIXTURES "/tokenizer_formats/";

const Json& cases() {
  static const Json json = read_json(kFolder + "cases.json");
  return json;
}

Ids ids_of(const Json& json) {
  Ids ids;
  for (const Json& id : json.items()) ids.push_back(int32_t(id.as_int()));
  return ids;
}

/// The ids of all texts are those of `wanted`.
void check_ids(const Tokenizer& tokenizer, const Json& wanted, const EncodeOptions& options = {}) {
  const Json& texts = cases().at("texts");
  for (size_t i = 0; i < texts.size(); ++i) {
    CAPTURE(texts.at(i).as_string());
    CHECK(tokenizer.encode(texts.at(i).as_string(), options) == ids_of(wanted.at(i)));
  }
}

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

Json config_of(const std::string& text) { return Json::parse(text); }

/// A byte-level vocabulary without merges whose words are cut by `steps`.
std::shared_ptr<const Tokenizer> bytes_cut_by(const std::vector<std::string>& steps) {
  Parts parts;
  for (int byte = 0; byte < 256; ++byte)
    parts.vocabulary.push_back(
        {.text = bpe::letters_of_bytes(std::string(1, char(byte))), .id = byte});
  parts.pre_tokenizer = pre_tokenizer_json(steps);
  return make_tokenizer({.tokenizer = to_tokenizer_json(parts)});
}

/// A GGUF file with `tokenizer`'s vocabulary alone.
GgufFile written(const Tokenizer& tokenizer, int64_t rows, std::vector<std::string>* notes = {}) {
  const TempFolder folder;
  GgufWriter writer;
  writer.set("general.architecture", "llama");
  const auto said = write_vocabulary(tokenizer, rows, "{{ x }}", writer);
  if (notes) *notes = said;
  writer.write(folder / "v.gguf");
  return GgufFile::parse(read_file(folder / "v.gguf"), "v.gguf");
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
    apply_tokenizer_config(config_of(R"({"chat_template": "{{ x }}"})"), {}, true, vocabulary);
    CHECK(vocabulary.chat_template == "{{ x }}");
    CHECK(contains(message_of<Error>([&] {
                     apply_tokenizer_config(
                         config_of(R"({"added_tokens_decoder": {"3": {"content": "<s>"}}})"), {},
                         true, vocabulary);
                   }),
                   "id 3 is \"<s>\""));
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

TEST_SUITE("nn/text/gguf_vocabulary") {
  TEST_CASE("ids, template and stop ids of a file, without its padding") {
    const Vocabulary vocabulary = read_gguf_vocabulary(GgufFile::open(kFolder + "gpt2.gguf"));
    const int32_t begin = vocabulary.special.bos.value();
    CHECK(vocabulary.chat_template == "{{ bos_token }}");
    CHECK(vocabulary.stop == Ids{begin + 1});
    CHECK_FALSE(vocabulary.special.pad.has_value());  // it is padding itself
    const auto tokenizer = make_tokenizer(vocabulary);
    CHECK(tokenizer->vocab_size() == begin + 3);
    CHECK(tokenizer->encode("<tool>") == Ids{begin + 2});
    CHECK(tokenizer->encode("<|im_end|>").size() > 1);
    CHECK(tokenizer->encode("<|im_end|>", {.parse_special_tokens = true}) == Ids{begin + 1});
    CHECK(tokenizer->encode("", {.add_special_tokens = true}) == Ids{begin});
  }

  TEST_CASE("a token that ends texts is no user's, whatever its type") {
    const TempFolder folder;
    GgufWriter writer;
    writer.set("tokenizer.ggml.model", "llama");
    writer.set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "/", "s"});
    writer.set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 4, 1, 1});
    writer.set("tokenizer.ggml.scores", std::vector<float>(5, 0));
    writer.write(folder / "v.gguf");
    const auto tokenizer = load_tokenizer(folder / "v.gguf");
    CHECK(tokenizer->encode("</s>") == Ids{0, 3, 4, 0});
    CHECK(tokenizer->encode("</s>", {.parse_special_tokens = true}) == Ids{2});
    CHECK(tokenizer->special().eos == 2);
  }

  TEST_CASE("lists of a GGUF file that do not fit each other") {
    const TempFolder folder;
    auto refusal = [&](const std::vector<int32_t>& types, const std::vector<float>& scores,
                       uint32_t bos) {
      GgufWriter writer;
      writer.set("tokenizer.ggml.model", "llama");
      writer.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "c"});
      writer.set("tokenizer.ggml.token_type", types);
      writer.set("tokenizer.ggml.scores", scores);
      writer.set("tokenizer.ggml.bos_token_id", bos);
      writer.write(folder / "v.gguf");
      return message_of<FileError>([&] { load_tokenizer(folder / "v.gguf"); });
    };
    CHECK(refusal({1, 1, 1}, {0, 0, 0}, 1) == "");
    CHECK(contains(refusal({1, 1}, {0, 0, 0}, 1), "token_type has 2 items for 3 tokens"));
    CHECK(contains(refusal({1, 1, 1}, {0}, 1), "scores has 1 items for 3 tokens"));
    CHECK(contains(refusal({1, 1, 1}, {0, 0, 0}, 7), "bos_token_id is 7, there are 3 tokens"));
    CHECK(refusal({1, 1, 1}, {0, 0, 0}, UINT32_MAX) == "");  // none
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(contains(refusal({1, 1, 1}, {0, nan, 0}, 1), "scores[1] is not finite"));
  }

  TEST_CASE("what is written gives the same ids when read") {
    for (const char* name : {"bpe.model", "no_prefix.model", "gpt2", "tekken.json", "gpt2.gguf"}) {
      CAPTURE(name);
      const auto tokenizer = load_tokenizer(kFolder + name);
      const int64_t rows = tokenizer->vocab_size() + 3;
      const GgufFile file = written(*tokenizer, rows);
      CHECK(file.at("tokenizer.ggml.tokens").size() == size_t(rows));
      CHECK(file.at("tokenizer.ggml.token_type").as_ints().back() == 5);
      CHECK(file.at("tokenizer.ggml.tokens").as_strings().back() ==
            "[PAD" + std::to_string(rows - 1) + "]");
      for (const char* key : {"bos_token_id", "eos_token_id", "padding_token_id", "add_bos_token",
                              "add_eos_token", "add_space_prefix"})
        CHECK(file.find(std::string("tokenizer.ggml.") + key) != nullptr);
      CHECK(file.at("tokenizer.chat_template").as_string() == "{{ x }}");
      const auto again = make_tokenizer(read_gguf_vocabulary(file));
      CHECK(again->vocab_size() == tokenizer->vocab_size());
      CHECK(again->special().bos == tokenizer->special().bos);
      check_ids(*again, cases().at("files").at(name).at("ids"));
      for (const bool adds : {false, true})
        CHECK(again->encode("the fox", {.add_special_tokens = adds}) ==
              tokenizer->encode("the fox", {.add_special_tokens = adds}));
    }
  }

  TEST_CASE("each name of a pre-tokenizer cuts text and is found by its expressions") {
    const std::string text =
        "Hello they'LL 12345 \t\n\n x\u00e9\u4f60\u597d, (iPhone) __init__  \u0939\u093f\u0928";
    std::set<std::string> names;
    for (const PreTokenizer& row : pre_tokenizers()) {
      CAPTURE(row.name);
      CHECK(names.insert(row.name).second);
      const auto tokenizer = bytes_cut_by(row.steps);
      CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
      const auto found = pre_tokenizers_of(*steps_of(tokenizer->to_json().at("pre_tokenizer")));
      CHECK(std::find(found.begin(), found.end(), &row) != found.end());
    }
    CHECK(names.size() >= 85);
  }

  TEST_CASE("the name that is written depends on ignore_merges where that changes ids") {
    const auto tokenizer = load_tokenizer(kFolder + "gpt2.gguf");
    auto pre_of = [&](Json json) {
      const GgufFile file = written(BpeTokenizer::from_json(json), tokenizer->vocab_size());
      return std::string(file.at("tokenizer.ggml.pre").as_string());
    };
    Json json = tokenizer->to_json();
    CHECK(pre_of(json) == "llama-bpe");
    json["model"]["ignore_merges"] = false;
    CHECK(pre_of(json) == "dbrx");
    json["pre_tokenizer"] = pre_tokenizer_json({kGpt2Step});
    CHECK(pre_of(json) == "gpt-2");
    // Every token comes out of its merges here, so that the flag makes no difference.
    json["model"]["ignore_merges"] = true;
    CHECK(pre_of(json) == "gpt-2");
    json["model"]["ignore_merges"] = false;
    json["pre_tokenizer"] = pre_tokenizer_json({kDigitsStep, kGpt2Step});
    CHECK(pre_of(json) == "smollm");
    json["pre_tokenizer"] = pre_tokenizer_json({"[a-q]+"});
    CHECK(contains(message_of<Error>([&] { pre_of(json); }), "[a-q]+"));
    json["pre_tokenizer"] = pre_tokenizer_json({kGpt2Step});
    json["model"]["merges"] = Json::array();
    CHECK(pre_of(json) == "gpt-2");
    json["model"]["ignore_merges"] = true;
    CHECK(contains(message_of<Error>([&] { pre_of(json); }), "ignore_merges true"));
  }

  TEST_CASE("merges that no order of scores gives are refused") {
    Json json = load_tokenizer(kFolder + "bpe.model")->to_json();
    Json::Array merges = json.at("model").at("merges").items();
    merges.pop_back();
    json["model"]["merges"] = Json(merges);
    CHECK(contains(message_of<Error>([&] { written(BpeTokenizer::from_json(json), 500); }),
                   "pieces by score"));
  }

  TEST_CASE("byte and character tokenizers") {
    std::vector<std::string> notes;
    const ByteTokenizer bytes;
    const GgufFile file = written(bytes, 260, &notes);
    CHECK(notes.empty());
    CHECK(file.at("tokenizer.ggml.merges").size() == 0);
    CHECK(file.at("tokenizer.ggml.eos_token_id").as_int() == 256);
    const auto again = make_tokenizer(read_gguf_vocabulary(file));
    CHECK(again->encode("a \xc3\xa9") == bytes.encode("a \xc3\xa9"));

    const std::string_view text = "a b\nc\u00e9";
    const auto chars = train_tokenizer("char", std::span(&text, 1));
    const GgufFile pieces = written(*chars, chars->vocab_size(), &notes);
    CHECK(notes.size() == 2);  // no end of text, no bytes
    CHECK(pieces.at("tokenizer.ggml.model").as_string() == "llama");
    CHECK_FALSE(pieces.at("tokenizer.ggml.add_space_prefix").as_bool());
    CHECK(make_tokenizer(read_gguf_vocabulary(pieces))->encode(text) == chars->encode(text));
    CHECK(contains(message_of<Error>([&] { written(*chars, 2); }), "the embedding has 2 rows"));
  }
}
