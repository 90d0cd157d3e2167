#include <doctest/doctest.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/data.h>
#include <tests/support/temp_folder.h>

#include <algorithm>
#include <numeric>
#include <set>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
using Ids = std::vector<int64_t>;

namespace {

TokenDataset counting(int32_t n, int64_t vocab_size = 1'000'000) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return TokenDataset::from_ids(ids, vocab_size);
}

Ids all_ids(const TokenDataset& dataset) {
  Ids ids(size_t(dataset.size()));
  dataset.read(0, dataset.size(), ids.data());
  return ids;
}

Ids values(const Tensor& t) { return to_host<int64_t>(t); }

/// The first id of every row of the next `n` batches; in `counting` it says where the row begins.
Ids starts(Loader& loader, int64_t n) {
  Ids first;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Batch batch = loader.next();
    const Ids inputs = values(batch.inputs), targets = values(batch.targets);
    const int64_t context = batch.inputs.size(1);
    for (int64_t at = 0; at < batch.inputs.numel(); ++at) {
      wrong += targets[size_t(at)] != inputs[size_t(at)] + 1;
      if (at % context == 0) first.push_back(inputs[size_t(at)]);
    }
  }
  CHECK(wrong == 0);
  return first;
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

TEST_SUITE("nn/loader") {
  TEST_CASE("the loop of a user's program") {
    const TempFolder folder;
    const ByteTokenizer tokenizer;
    auto [train, val] =
        split(TokenDataset(folder.file("t", std::string(1000, 'x')), tokenizer), 0.9);
    int64_t steps = 0;
    for (auto& batch : Loader(train, {.batch = 3, .context = 8, .steps = 5})) {
      CHECK(batch.step == steps++);
      CHECK(batch.inputs.shape() == Shape{3, 8});
      CHECK(batch.targets.dtype() == i64);
    }
    CHECK(steps == 5);
  }

  TEST_CASE("random windows cover the dataset evenly and depend on the seed") {
    Loader loader(counting(1000), {.batch = 50, .context = 20, .seed = 1});
    const Ids first = starts(loader, 200);
    CHECK(*std::min_element(first.begin(), first.end()) == 0);
    CHECK(*std::max_element(first.begin(), first.end()) == 1000 - 20 - 2);
    const double mean = double(std::accumulate(first.begin(), first.end(), int64_t(0))) / 10000;
    CHECK(std::abs(mean - 489) < 15);  // five standard deviations of the mean
    Loader same(counting(1000), {.batch = 50, .context = 20, .seed = 1});
    CHECK(starts(same, 200) == first);
    Loader other(counting(1000), {.batch = 50, .context = 20, .seed = 2});
    CHECK(starts(other, 200) != first);
    CHECK(!loader.done());
  }

  TEST_CASE("a position and a state resume exactly") {
    for (const bool replacement : {true, false}) {
      const LoaderOptions options{.batch = 4, .context = 8, .seed = 7, .replacement = replacement};
      Loader whole(counting(500), options), rest(counting(500), options);
      const Ids all = starts(whole, 40);
      rest.set_position(15);
      const Json state = rest.state();
      const Ids tail = starts(rest, 25);
      CHECK(tail == Ids(all.begin() + 60, all.end()));
      Loader resumed(counting(500), options);
      resumed.set_state(Json::parse(state.dump()));
      CHECK(resumed.next().step == 15);
      CHECK(starts(resumed, 24) == Ids(all.begin() + 64, all.end()));
    }
    Loader loader(counting(500), {.batch = 4, .context = 8});
    Loader wider(counting(500), {.batch = 5, .context = 8});
    CHECK(contains(message_of<Error>([&] { loader.set_state(wider.state()); }),
                   "the state is for batch 5, this loader has 4"));
    CHECK_THROWS_AS(loader.set_position(-1), Error);
    CHECK_THROWS_AS(loader.set_state(Json::object()), Error);
  }

  TEST_CASE("without replacement every epoch has each window once, in a new order") {
    for (const int32_t size : {9, 10, 17, 161, 1000}) {
      Loader loader(counting(size), {.batch = 1, .context = 8, .seed = 3, .replacement = false});
      const int64_t n = loader.windows();
      CHECK(n == (size - 1) / 8);
      const Ids first = starts(loader, n), second = starts(loader, n);
      for (const Ids& epoch : {first, second}) {
        const std::set<int64_t> seen(epoch.begin(), epoch.end());
        CHECK(int64_t(seen.size()) == n);
        CHECK(*seen.rbegin() == (n - 1) * 8);
      }
      if (n > 10) {
        CHECK(first != second);
        CHECK(!std::is_sorted(first.begin(), first.end()));
      }
    }
  }

  TEST_CASE("in order, one pass gives every window once") {
    Loader loader(counting(100), {.batch = 4, .context = 9, .shuffle = false});
    CHECK(loader.windows() == 11);
    CHECK(starts(loader, 3) == Ids{0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90});
    CHECK(loader.done());
    CHECK(contains(message_of<Error>([&] { loader.next(); }), "all 3 batches were given"));
    Loader endless(counting(19), {.batch = 3, .context = 9, .steps = 2, .shuffle = false});
    CHECK(starts(endless, 2) == Ids{0, 9, 0, 9, 0, 9});
  }

  TEST_CASE("the smallest dataset has one window, a smaller one is refused") {
    Loader loader(counting(9), {.batch = 2, .context = 8});
    CHECK(starts(loader, 2) == Ids{0, 0, 0, 0});
    CHECK(message_of<Error>([] { Loader(counting(8), {.context = 8}); }) ==
          "loader: ids in memory has 8 tokens, a context of 8 needs at least 9");
    CHECK_THROWS_AS(Loader(counting(8), {.context = 0}), Error);
    CHECK_THROWS_AS(Loader(counting(8), {.batch = 0, .context = 2}), Error);
    CHECK_THROWS_AS(Loader(TokenDataset(), {.context = 2}), Error);
  }
}
