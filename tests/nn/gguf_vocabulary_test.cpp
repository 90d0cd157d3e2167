#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>
#include <tests/support/temp_folder.h>
#include <tests/support/tokenizer_cases.h>

#include <limits>
#include <set>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::formats;
using namespace olm::test;

namespace {

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

  TEST_CASE("NFC is in the name where the vendor's tokenizer has it") {
    Json json = load_tokenizer(kFolder + "gpt2.gguf")->to_json();
    json["model"]["ignore_merges"] = false;
    json["pre_tokenizer"] = pre_tokenizer_json(pre_tokenizer("qwen2")->steps);
    std::vector<std::string> notes;
    auto again = [&] {
      const GgufFile file =
          written(BpeTokenizer::from_json(json).with_special({.eos = 1}), 500, &notes);
      return make_tokenizer(read_gguf_vocabulary(file));
    };
    CHECK(again()->encode("e\u0301") != again()->encode("\u00e9"));
    CHECK(notes.empty());
    json["normalizer"] = config_of(R"({"type": "NFC"})");
    CHECK(again()->encode("e\u0301") == again()->encode("\u00e9"));
    CHECK(notes.size() == 1);
    json["normalizer"] = config_of(R"({"type": "Lowercase"})");
    CHECK(contains(message_of<Error>([&] { again(); }), "Lowercase"));
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
