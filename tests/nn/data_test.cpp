#include <doctest/doctest.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/data.h>
#include <olm/nn/linear.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>
#include <tests/support/temp_folder.h>
#include <tests/support/token_ids.h>

#include <algorithm>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
using Ids = std::vector<int64_t>;

namespace {

Ids all_ids(const TokenDataset& dataset) {
  Ids ids(size_t(dataset.size()));
  dataset.read(0, dataset.size(), ids.data());
  return ids;
}

}  // namespace

TEST_SUITE("nn/data") {
  TEST_CASE("a file becomes ids, and a folder has the end of text between files") {
    const TempFolder folder;
    const ByteTokenizer bytes;
    CHECK(all_ids(TokenDataset(folder.file("b.txt", "hi\xff"), bytes)) == Ids{'h', 'i', 255});
    folder.file("a/x.txt", "A");
    folder.file("a/empty.txt", "");
    folder.file("c", "C");
    CHECK(all_ids(TokenDataset(folder.path(), bytes)) == Ids{'A', 256, 'h', 'i', 255, 256, 'C'});
    const Corpus corpus = Corpus::open(folder.path());
    CHECK(corpus.texts().size() == 3);
    CHECK(corpus.hash() != Corpus::open(folder / "c").hash());
    CHECK(Corpus::open(folder / "c").hash() == hash_hex("C"));
  }

  TEST_CASE("missing, empty and unreadable text is refused by name") {
    const TempFolder folder;
    const ByteTokenizer bytes;
    auto message = [&](const std::string& path, const Tokenizer& tokenizer) {
      return message_of<FileError>([&] { TokenDataset(path, tokenizer); });
    };
    CHECK(contains(message(folder / "none", bytes), "none: cannot be opened: No such file"));
    CHECK(contains(message(folder.path(), bytes), "the folder holds no files"));
    const std::string empty = folder.file("empty", "");
    CHECK(message(empty, bytes) == empty + ": is empty, text was wanted");
    CHECK(contains(message(folder.path(), bytes), "all 1 files of the folder are empty"));
    const CharTokenizer chars(U"ab");
    const std::string binary = folder.file("z/binary", std::string("ab\0\xfe", 4));
    CHECK(message(binary, chars) ==
          binary +
              ": char tokenizer: the text is not UTF-8: byte 254 at byte offset 3 (a byte "
              "tokenizer takes any file)");
    CHECK(contains(message(folder.file("other", "abba c"), chars),
                   "other: char tokenizer: the character ' ' (U+0020) at byte offset 4"));
    folder.file("z/a", "ab");
    CHECK(contains(message(folder / "z", chars), "has no <|endoftext|> to stand between them"));
    CHECK_THROWS_AS(TokenDataset::from_ids(std::vector<int32_t>{3}, 3), Error);
    CHECK_THROWS_AS(TokenDataset::from_ids(std::vector<int32_t>{-1}, 3), Error);
  }

  TEST_CASE("folders of runs and models, and tokenizers, are no text") {
    const TempFolder folder;
    for (const char* name : {"a.txt", "d/b.txt"}) folder.file(name, name);
    const std::string hash = Corpus::open(folder.path()).hash();
    const auto model = Linear(2, 2);
    init(*model);
    save(model, folder / "d/model");
    folder.file("d/model/notes.txt", "notes");
    AdamW optimizer(model->parameters(), {});
    Checkpoints(folder / "run").save({.step = 3, .total_steps = 5}, *model, optimizer);
    ByteTokenizer().save(folder / "tokenizer.json");
    CharTokenizer(U"ab").save(folder / "other.json");
    const Corpus corpus = Corpus::open(folder.path());
    CHECK(corpus.left_out == std::vector<std::string>{folder / "d/model", folder / "other.json",
                                                      folder / "run", folder / "tokenizer.json"});
    CHECK(corpus.hash() == hash);
    CHECK(message_of<FileError>([&] { Corpus::open(folder / "run"); }) ==
          (folder / "run") + ": is the folder of a run or a model, text was wanted");
    // Files that others call so are text.
    folder.file("z/model.json", R"({"format": "layers-model"})");
    folder.file("z/tokenizer.json", "{}");
    folder.file("z/run.toml", "[model]\n");
    folder.file("z/checkpoints/000500/state.json", "[\"olm checkpoint\"]");
    CHECK(Corpus::open(folder.path()).files.size() == 6);
    CHECK(Corpus::open(folder.path()).left_out == corpus.left_out);
  }

  TEST_CASE("links to files are read, and links to folders are named") {
    const TempFolder folder;
    folder.file("d/a.txt", "a");
    namespace fs = std::filesystem;
    fs::create_symlink(folder / "d/a.txt", folder / "b.txt");
    fs::create_directory_symlink(folder.path(), folder / "d/up");
    fs::create_directory_symlink(folder / "d", folder / "c");
    const Corpus corpus = Corpus::open(folder.path());
    CHECK(corpus.files.size() == 2);
    CHECK(corpus.links == std::vector<std::string>{folder / "c", folder / "d/up"});
    CHECK(corpus.left_out.empty());
  }

  TEST_CASE("a byte-order mark at the start of a file is no part of its text") {
    const TempFolder folder;
    const std::string mark = "\xef\xbb\xbf";
    const std::string one = folder.file("a/one.txt", mark + "ab"),
                      two = folder.file("a/two.txt", mark + "b" + mark);
    folder.file("a/empty.txt", mark);
    folder.file("b/one.txt", "ab");
    folder.file("b/two.txt", "b" + mark);
    const Corpus marked = Corpus::open(folder / "a"), plain = Corpus::open(folder / "b");
    CHECK(marked.texts() == plain.texts());
    CHECK(marked.hash() == plain.hash());
    CHECK(Corpus::open(one).hash() == hash_hex("ab"));
    CHECK(train_tokenizer("char", Corpus::open(one).texts())->vocab_size() == 2);
    const auto tokenizer = train_tokenizer("char", marked.texts());
    CHECK(tokenizer->vocab_size() == 4);  // a, b, the mark inside, the end of text
    CHECK(all_ids(TokenDataset(marked, *tokenizer)) == Ids{0, 1, 3, 1, 2});
    CHECK(all_ids(TokenDataset(one, ByteTokenizer())) == Ids{'a', 'b'});
    CHECK(message_of<FileError>([&] { TokenDataset(two, CharTokenizer(U"b")); }) ==
          two + ": char tokenizer: the character '" + mark +
              "' (U+FEFF) at byte offset 1 is not among the 1 it knows, counted behind the "
              "byte-order mark");
    CHECK(contains(message_of<FileError>([&] { Corpus::open(folder / "a/empty.txt"); }),
                   "is empty, text was wanted"));
  }

  TEST_CASE("the end of a text that stands in a corpus has its id") {
    const TempFolder folder;
    const std::string_view text = "ab<|endoftext|>ab";
    const auto bpe = train_tokenizer("bpe:257", std::span(&text, 1));
    const TokenDataset dataset(folder.file("text", text), *bpe);
    CHECK(all_ids(dataset) == Ids{'a', 'b', 256, 'a', 'b'});
  }

  TEST_CASE("a long text is encoded in pieces, and messages count from its beginning") {
    const TempFolder folder;
    std::string text;
    for (int i = 0; i < 600000; ++i) text += i % 3 ? "ü" : "€";  // 2^20 bytes end inside one
    const CharTokenizer chars(U"xü€");
    const std::string path = folder.file("text", text);
    const std::vector<int32_t> whole = chars.encode(text);
    const Ids got = all_ids(TokenDataset(path, chars));
    CHECK(std::equal(got.begin(), got.end(), whole.begin(), whole.end()));
    folder.file("text", text + "?");
    CHECK(contains(message_of<FileError>([&] { TokenDataset(path, chars); }),
                   "the character '?' (U+003F) at byte offset " + std::to_string(text.size())));
  }

  TEST_CASE("a split is by position") {
    auto [train, val] = split(counting(1115394 / 100), 0.9);
    CHECK(train.size() == int64_t(0.9 * (1115394 / 100)));
    CHECK(train.size() + val.size() == 1115394 / 100);
    CHECK(all_ids(val)[0] == train.size());
    CHECK(split(val, 1.0).second.size() == 0);
    CHECK(all_ids(split(val, 0.5).second)[0] == train.size() + split(val, 0.5).first.size());
    CHECK_THROWS_AS(split(train, 1.5), Error);
    CHECK_THROWS_AS(train.slice(5, 4), Error);
    int64_t id = 0;
    CHECK_THROWS_AS(train.read(train.size(), 1, &id), Error);
  }

  TEST_CASE("shards hold ids of either width") {
    const TempFolder folder;
    for (const int64_t vocab : {300, 65536, 65537, 1000000}) {
      const TokenDataset ids = counting(300, vocab);
      ids.write_shard(folder / "s.safetensors");
      const TokenDataset shard = TokenDataset::open_shard(folder / "s.safetensors");
      CHECK(all_ids(shard) == all_ids(ids));
      CHECK(shard.vocab_size() == vocab);
      CHECK(SafetensorsFile::open(folder / "s.safetensors").entry("tokens").dtype ==
            (vocab <= 65536 ? "U16" : "I32"));
    }
    counting(300).slice(100, 110).write_shard(folder / "part");
    CHECK(all_ids(TokenDataset::open_shard(folder / "part"))[0] == 100);
  }

  TEST_CASE("a shard is found as long as text, tokenizer and ids are the same") {
    const TempFolder folder;
    const std::string text = folder.file("text", "hello"), shard = folder / "shard";
    const ByteTokenizer bytes;
    const CharTokenizer chars(U"ehlo");
    auto find = [&](const Tokenizer& tokenizer) {
      return TokenDataset::find_shard(shard, Corpus::open(text), tokenizer);
    };
    CHECK_FALSE(find(bytes));
    TokenDataset(text, bytes).write_shard(shard);
    REQUIRE(find(bytes));
    CHECK(all_ids(*find(bytes)) == Ids{'h', 'e', 'l', 'l', 'o'});
    CHECK(find(bytes)->source_hash() == hash_hex("hello"));
    CHECK_FALSE(find(chars));
    folder.file("text", "oh");
    CHECK_FALSE(find(bytes));
    folder.file("text", "hello");
    std::string damaged = read_file(shard);
    damaged.back() ^= 1;
    for (const std::string& bad :
         {damaged, damaged.substr(0, damaged.size() - 2), std::string("damaged"), std::string()}) {
      folder.file("shard", bad);
      CHECK_FALSE(find(bytes));
    }
  }

  TEST_CASE("characters that the vocabulary lacks are counted, in a shard too") {
    const TempFolder folder;
    folder.file("text/a", "h\u00e9llo");
    folder.file("text/b", "zoe");
    const auto tokenizer = BpeTokenizer::from_json(hugging_face_json(CharTokenizer(U"ehlo", true)));
    const TokenDataset ids(folder / "text", tokenizer);
    CHECK(ids.size() == 7);
    CHECK(ids.dropped() == 2);
    ids.write_shard(folder / "shard");
    CHECK(TokenDataset::open_shard(folder / "shard").dropped() == 2);
    CHECK(TokenDataset(folder / "text/a", ByteTokenizer()).dropped() == 0);
  }

  TEST_CASE("what is no shard, or a damaged one, is refused") {
    const TempFolder folder;
    const std::string path = folder / "s";
    auto refusal = [&] { return message_of<FileError>([&] { TokenDataset::open_shard(path); }); };
    auto write = [&](const char* dtype, Shape shape, size_t bytes, const char* vocab) {
      const std::vector<std::byte> data(bytes, std::byte{7});
      write_safetensors(path, {{"tokens", dtype, shape, data}},
                        {{"format", "olm token shard 1"},
                         {"source", ""},
                         {"tokenizer", ""},
                         {"vocab_size", vocab}});
    };
    write_safetensors(path, {{"w", zeros({1})}});
    CHECK(contains(refusal(), "no token shard: its metadata has no \"format\""));
    write_safetensors(path, {{"w", zeros({1})}}, {{"format", "pt"}});
    CHECK(contains(refusal(), "its format is \"pt\""));
    write("F32", {1}, 4, "10");
    CHECK(contains(refusal(), "these are F32 of shape [1]"));
    write("U16", {1, 2}, 4, "10");
    CHECK(contains(refusal(), "U16 of shape [1,2]"));
    write("U16", {2}, 4, "many");
    CHECK(contains(refusal(), "impossible vocab_size \"many\""));
    write("U16", {2}, 4, "10");
    CHECK(refusal() == "");
    CHECK(contains(message_of<FileError>([&] { all_ids(TokenDataset::open_shard(path)); }),
                   "damaged: id 1799 at position 0 of a vocabulary of 10"));
  }
}
