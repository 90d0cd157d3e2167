#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/engine/gguf.h>
#include <tests/support/temp_folder.h>

#include <cstring>
#include <functional>
#include <limits>

using namespace olm;
using namespace olm::test;

namespace {

/// Bytes put together by hand.
struct Bytes {
  std::string all;
  template <class T>
  Bytes& number(T value) {
    all.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& u32(uint32_t value) { return number(value); }
  Bytes& u64(uint64_t value) { return number(value); }
  Bytes& text(std::string_view text) {
    u64(text.size());
    all += text;
    return *this;
  }
  Bytes& raw(std::string_view bytes) {
    all += bytes;
    return *this;
  }
  Bytes& zeros(size_t count) { return raw(std::string(count, '\0')); }
  Bytes& pad() { return zeros((32 - all.size() % 32) % 32); }
};

Bytes head(uint64_t tensors, uint64_t values, uint32_t version = 3) {
  return Bytes().raw("GGUF").u32(version).u64(tensors).u64(values);
}

constexpr uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

/// A file with one value, whose kind and bytes follow the key.
Bytes one_value(std::string_view key = "k") { return head(0, 1).text(key); }

/// A file with one tensor: sizes fastest first, as files have them.
Bytes one_tensor(const std::vector<uint64_t>& sizes, uint32_t type, std::string_view name = "w",
                 uint64_t offset = 0) {
  Bytes file = head(1, 0).text(name).u32(uint32_t(sizes.size()));
  for (const uint64_t size : sizes) file.u64(size);
  return file.u32(type).u64(offset).pad();
}

std::string refusal(const std::string& bytes) {
  const std::string message =
      message_of<FileError>([&] { (void)GgufFile::parse(bytes, "x.gguf"); });
  CHECK_MESSAGE(message.starts_with("x.gguf: "), message);
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  return message;
}

std::string value_refusal(const GgufFile& file, const char* key,
                          const std::function<void(const GgufValue&)>& ask) {
  return message_of<FileError>([&] { ask(file.at(key)); });
}

std::string fixture(const char* name) { return std::string(OLM_FIXTURES) + "/" + name; }

}  // namespace

TEST_SUITE("engine/gguf") {
  TEST_CASE("values of every kind are read from a file of gguf-py") {
    const GgufFile file = GgufFile::open(fixture("gguf_written.gguf"));
    CHECK(file.version() == 3);
    CHECK(file.keys().front() == "general.architecture");
    CHECK(file.keys().size() == 18);
    CHECK(file.find("fixture.none") == nullptr);
    CHECK(file.at("fixture.yes").as_bool());
    CHECK(!file.at("fixture.no").as_bool());
    CHECK(file.at("fixture.negative").as_int() == -7);
    CHECK(file.at("fixture.large").as_double() == 0x1p63);
    CHECK(file.at("fixture.eps").as_double() == double(1e-5f));
    CHECK(file.at("fixture.text").as_string() == "Grüße\n\"quoted\"");
    CHECK(file.at("fixture.tokens").as_strings() ==
          std::vector<std::string_view>{"<s>", "", "▁a", "é"});
    CHECK(file.at("fixture.types").as_ints() == std::vector<int64_t>{3, 1, -1});
    CHECK(file.at("fixture.types").as_doubles() == std::vector<double>{3, 1, -1});
    CHECK(file.at("fixture.scores").as_doubles() == std::vector<double>{0, -1.5, double(1e30f)});
    CHECK(file.at("fixture.flags").as_bools() == std::vector<bool>{true, false, true});
    CHECK(file.at("fixture.u8").as_int() == 255);
    CHECK(file.at("fixture.i8").as_int() == -128);
    CHECK(file.at("fixture.u16").as_int() == 65535);
    CHECK(file.at("fixture.i16").as_int() == -32768);
    CHECK(file.at("fixture.i64").as_int() == std::numeric_limits<int64_t>::min());
    CHECK(file.at("fixture.f64").as_double() == 0.1);
    CHECK(file.at("fixture.tokens").size() == 4);
    CHECK(file.at("fixture.tokens").item_kind() == GgufKind::string);
  }

  TEST_CASE("values describe themselves on one line") {
    const GgufFile file = GgufFile::open(fixture("gguf_written.gguf"));
    CHECK(file.at("fixture.text").describe() == R"("Grüße\n\"quoted\"")");
    CHECK(file.at("fixture.eps").describe() == "1e-05");
    CHECK(file.at("fixture.large").describe() == "9223372036854775809");
    CHECK(file.at("fixture.i8").describe() == "-128");
    CHECK(file.at("fixture.yes").describe() == "true");
    CHECK(file.at("fixture.tokens").describe() == R"(["<s>", "", "▁a", "é"])");
    CHECK(file.at("fixture.flags").describe() == "[true, false, true]");
    const TempFolder folder;
    GgufWriter writer;
    writer.set("many", std::vector<int32_t>(100, 4));
    writer.set("long", std::string(79, 'a') + "ééééééé");
    writer.write(folder / "x");
    const GgufFile other = GgufFile::open(folder / "x");
    CHECK(other.at("many").describe() == "[4, 4, 4, 4, 4, 4, … 100 in all]");
    CHECK(other.at("long").describe() == "\"" + std::string(79, 'a') + "…\"");
  }

  TEST_CASE("a value that is asked for as another kind is named with both") {
    const GgufFile file = GgufFile::open(fixture("gguf_written.gguf"));
    const auto at = [&](const char* key, auto ask) { return value_refusal(file, key, ask); };
    CHECK(contains(at("fixture.eps", [](const GgufValue& v) { v.as_int(); }),
                   "gguf_written.gguf: key \"fixture.eps\" is f32, an integer was wanted"));
    CHECK(contains(at("fixture.yes", [](const GgufValue& v) { v.as_int(); }), "is bool, an int"));
    CHECK(contains(at("fixture.yes", [](const GgufValue& v) { v.as_double(); }), "a number was"));
    CHECK(contains(at("fixture.u8", [](const GgufValue& v) { v.as_bool(); }), "is u8, a bool"));
    CHECK(contains(at("fixture.types", [](const GgufValue& v) { v.as_int(); }),
                   "is an array of i32, an integer was wanted"));
    CHECK(contains(at("fixture.tokens", [](const GgufValue& v) { v.as_string(); }),
                   "is an array of string, a string was wanted"));
    CHECK(contains(at("fixture.text", [](const GgufValue& v) { v.as_strings(); }),
                   "is string, an array of strings was wanted"));
    CHECK(contains(at("fixture.scores", [](const GgufValue& v) { v.as_ints(); }), "of integers"));
    CHECK(contains(at("fixture.tokens", [](const GgufValue& v) { v.as_doubles(); }), "of numbers"));
    CHECK(contains(at("fixture.types", [](const GgufValue& v) { v.as_bools(); }), "of bools"));
    CHECK(contains(at("fixture.large", [](const GgufValue& v) { v.as_int(); }),
                   "is 9223372036854775809, at most 9223372036854775807 was wanted"));
    CHECK(contains(message_of<FileError>([&] { file.at("a\nb"); }), "has no key \"a\\nb\""));
    CHECK(contains(message_of<FileError>([&] { file.entry("v"); }), "holds no tensor \"v\""));
  }

  TEST_CASE("types that are not read are listed by name, and refused when asked for") {
    const std::string bytes = one_tensor({256}, 16).zeros(66).all;
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    CHECK(file.bytes("w").size() == 66);
    CHECK(message_of<FileError>([&] { file.tensor("w"); }) ==
          "x.gguf: tensor \"w\" is of type IQ2_XXS, which is not read");
    CHECK(gguf_type_name(39) == "MXFP4");
    CHECK(gguf_type_name(40) == "NVFP4");
    CHECK(gguf_type_name(41) == "Q1_0");
    CHECK(gguf_type_name(35) == "TQ2_0");
    CHECK(gguf_type_name(77) == "type 77");
    CHECK(!gguf_type(16));
    CHECK(!gguf_type(77));
    CHECK(gguf_type(12) == GgufType::q4_k);
    float value = 0;
    std::byte block[66] = {};
    CHECK_THROWS_AS(dequantize(GgufType(16), block, 256, &value), Error);
    CHECK_THROWS_AS(dequantize(GgufType(77), block, 256, &value), Error);
    CHECK_THROWS_AS(dequantize(GgufType::q8_0, block, 31, &value), Error);
    CHECK_THROWS_AS(quantize(GgufType::q4_k, &value, 256, block), Error);
    CHECK_THROWS_AS(quantize(GgufType::q8_0, &value, 1, block), Error);
  }

  TEST_CASE("every prefix of a file is refused") {
    const TempFolder folder;
    GgufWriter writer;
    writer.set("general.architecture", "llama");
    writer.set("tokens", std::vector<std::string>{"a", "bc"});
    writer.set("merges", std::vector<std::string>{});
    writer.set("scores", std::vector<float>{1, 2});
    writer.set("eps", 1e-5f);
    writer.add("a", GgufType::q8_0, {2, 32}, [] { return full({2, 32}, 0.5); });
    writer.add("b", GgufType::f32, {8}, [] { return arange(8, {.dtype = f32}); });
    writer.write(folder / "x");
    const std::string bytes = read_file(folder / "x");
    const GgufFile whole = GgufFile::parse(bytes, "x.gguf");
    CHECK(whole.tensor("b").data<float>()[7] == 7);
    CHECK(whole.at("merges").as_strings().empty());
    CHECK(whole.at("merges").describe() == "[]");
    for (size_t n = 0; n < bytes.size(); ++n) {
      INFO(n, " of ", bytes.size(), " bytes");
      CHECK(contains(refusal(bytes.substr(0, n)), "truncated"));
    }
    CHECK(GgufFile::parse(bytes + "behind", "x.gguf").entries().size() == 2);
  }

  TEST_CASE("any byte may be another") {
    const std::string good = read_file(fixture("gguf_written.gguf"));
    size_t refused = 0;
    for (size_t i = 0; i < 1100; ++i)  // the header, and some data
      for (const uint8_t flip : {0x01, 0x80, 0xff}) {
        std::string bytes = good;
        bytes[i] = char(uint8_t(bytes[i]) ^ flip);
        try {
          const GgufFile file = GgufFile::parse(bytes, "x.gguf");
          for (const std::string& key : file.keys()) CHECK(!file.at(key).describe().empty());
          for (const GgufEntry& entry : file.entries())
            if (gguf_type(uint32_t(entry.type))) (void)file.tensor(entry.name);
        } catch (const FileError& e) {
          CHECK(std::string_view(e.what()).starts_with("x.gguf: "));
          ++refused;
        }
      }
    CHECK(refused > 300);
  }

  TEST_CASE("version 2 is read, others and other byte orders are not") {
    CHECK(GgufFile::parse(head(0, 0, 2).all, "x").version() == 2);
    CHECK(contains(refusal(head(0, 0, 1).all), "GGUF of version 1, version 2 or 3 was wanted"));
    CHECK(contains(refusal(head(0, 0, 0).all), "GGUF of version 0, "));
    CHECK(contains(refusal(head(0, 0, 4).all), "GGUF of version 4, "));
    CHECK(contains(refusal(head(0, 0, 3u << 24).all), "a big-endian GGUF file"));
    CHECK(contains(refusal("PK\x03\x04" + std::string(60, 'x')), "no GGUF file: it begins with"));
    CHECK(contains(refusal("{}"), "no GGUF file: it begins with \"{}\""));
    CHECK(contains(refusal(""), "truncated: the header needs 4 bytes at byte 0, 0 are left"));
  }

  TEST_CASE("values that cannot be are refused in one sentence") {
    const uint64_t huge = uint64_t(1) << 61;
    CHECK(contains(refusal(head(0, huge).all), "2305843009213693952 key-values are announced"));
    CHECK(contains(refusal(head(huge, 0).all), "2305843009213693952 tensors are announced"));
    CHECK(contains(refusal(head(0, 1).u64(huge).zeros(40).all), "truncated: key 0 needs"));
    CHECK(contains(refusal(one_value("").u32(kU8).zeros(1).all), "the name \"\" is empty"));
    CHECK(contains(refusal(one_value("a\nb").u32(kU8).zeros(1).all), "has a control character"));
    CHECK(contains(refusal(one_value("\xff").u32(kU8).zeros(1).all), "is not UTF-8"));
    CHECK(contains(refusal(one_value(std::string(65536, 'k')).u32(kU8).zeros(1).all), "too long"));
    CHECK(contains(refusal(one_value().u32(13).zeros(8).all), "key \"k\" has the unknown kind 13"));
    CHECK(contains(refusal(one_value().u32(kString).u64(huge).all), "truncated: key \"k\" needs"));
    CHECK(contains(refusal(one_value().u32(kBool).raw("\2").all), "a bool of value 2"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(kBool).u64(2).raw("\1\xff").all),
                   "a bool of value 255"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(kArray).u64(1).zeros(12).all),
                   "key \"k\" is an array of arrays"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(99).u64(1).zeros(12).all), "kind 99"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(kU32).u64(huge).zeros(12).all),
                   "needs 9223372036854775808 bytes"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(kU32).u64(huge * 2).zeros(12).all),
                   "announces 4611686018427387904 items"));
    CHECK(contains(refusal(one_value().u32(kArray).u32(kString).u64(huge).zeros(80).all),
                   "truncated: key \"k\" needs 8 bytes"));
    const auto twice = head(0, 2).text("k").u32(kU8).zeros(1).text("k").u32(kU8).zeros(1);
    CHECK(contains(refusal(twice.all), "key \"k\" comes twice"));
  }

  TEST_CASE("an alignment that cannot be is refused") {
    const auto aligned = [](uint32_t alignment) {
      return head(1, 1)
          .text("general.alignment")
          .u32(kU32)
          .u32(alignment)
          .text("w")
          .u32(1)
          .u64(1)
          .u32(0)
          .u64(0);
    };
    CHECK(contains(refusal(aligned(0).zeros(64).all), "is 0, a power of two was wanted"));
    CHECK(contains(refusal(aligned(48).zeros(64).all), "is 48, a power of two was wanted"));
    CHECK(contains(refusal(aligned(1u << 31).zeros(64).all), "data begins at byte 2147483648"));
    const auto other = one_value("general.alignment").u32(kI32).u32(32);
    CHECK(contains(refusal(other.all), "\"general.alignment\" is i32, u32 was wanted"));
    // Any byte may begin the data then: what is not aligned is copied.
    const GgufFile file = GgufFile::parse(aligned(1).number(1.5f).all, "x");
    const Tensor w = file.tensor("w");
    CHECK(w.item<float>() == 1.5f);
    CHECK(reinterpret_cast<uintptr_t>(w.data()) % sizeof(float) == 0);
  }

  TEST_CASE("tensors that cannot be are refused in one sentence") {
    const uint64_t half = uint64_t(1) << 31;
    CHECK(contains(refusal(one_tensor({1, 1, 1, 1, 1}, 0).zeros(32).all), "has 5 dimensions"));
    CHECK(contains(refusal(head(1, 0).text("w").u32(1000000).zeros(64).all), "1000000 dimensions"));
    CHECK(contains(refusal(one_tensor({half, half, 2}, 0).zeros(32).all), "impossible shape"));
    CHECK(contains(refusal(one_tensor({half, half, half, half}, 0).all), "impossible shape"));
    CHECK(contains(refusal(one_tensor({0, half, half, half}, 0).all), "impossible shape"));
    CHECK(contains(refusal(one_tensor({half, half, half, 0}, 0).all), "impossible shape"));
    CHECK(contains(refusal(one_tensor({half, half / 2}, 0).all), "impossible shape"));
    CHECK(contains(refusal(one_tensor({~uint64_t(0)}, 0).all), "the impossible size 1844674407"));
    CHECK(
        contains(refusal(one_tensor({half, half / 8}, 0).all), "truncated: tensor \"w\" ends at"));
    CHECK(contains(refusal(one_tensor({33}, 8).zeros(68).all),
                   "tensor \"w\" of shape [33] has rows of 33 elements, whole blocks of 32"));
    CHECK(contains(refusal(one_tensor({128}, 12).zeros(144).all), "whole blocks of 256"));
    CHECK(contains(refusal(one_tensor({}, 8).zeros(34).all), "rows of 1 elements"));
    CHECK(contains(refusal(one_tensor({32}, 77).zeros(34).all), "has type 77, which is no type"));
    CHECK(contains(refusal(one_tensor({32}, 4).zeros(34).all), "has Q4_2, which is no type"));
    CHECK(contains(refusal(one_tensor({32}, ~0u).zeros(34).all), "has type 4294967295"));
    CHECK(contains(refusal(one_tensor({4}, 0, std::string(64, 'n')).zeros(16).all), "is too long"));
    CHECK(contains(refusal(one_tensor({4}, 0, "").zeros(16).all), "tensor 0: the name \"\" is"));
    CHECK(contains(refusal(one_tensor({4}, 0, "w", 32).zeros(64).all),
                   "tensor \"w\" begins at byte 32 of the data, byte 0 was wanted"));
    CHECK(contains(refusal(one_tensor({4}, 0).zeros(15).all), "ends at byte 16 of the data"));
    CHECK(GgufFile::parse(one_tensor({4}, 0, std::string(63, 'n')).zeros(16).all, "x")
              .entries()[0]
              .bytes == 16);
    CHECK(GgufFile::parse(one_tensor({}, 0).zeros(4).all, "x").tensor("w").item<float>() == 0);
    CHECK(GgufFile::parse(one_tensor({4, 0}, 0).all, "x").tensor("w").shape() == Shape{0, 4});
  }

  TEST_CASE("tensors of a file do not overlap, leave gaps or share names") {
    const auto two = [](std::string_view second, uint64_t offset) {
      Bytes file = head(2, 0).text("a").u32(1).u64(4).u32(0).u64(0);
      return file.text(second).u32(1).u64(4).u32(0).u64(offset).pad().zeros(128).all;
    };
    CHECK(GgufFile::parse(two("b", 32), "x").entry("b").begin == 32);
    CHECK(contains(refusal(two("b", 16)), "\"b\" begins at byte 16 of the data, byte 32 was"));
    CHECK(contains(refusal(two("b", 0)), "\"b\" begins at byte 0 of the data, byte 32 was"));
    CHECK(contains(refusal(two("b", 64)), "\"b\" begins at byte 64 of the data, byte 32 was"));
    CHECK(contains(refusal(two("b", ~uint64_t(31))), "begins at byte 18446744073709551584"));
    CHECK(contains(refusal(two("a", 32)), "tensor \"a\" comes twice"));
  }
}
