#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <tests/support/temp_folder.h>

#include <cstring>

using namespace olm;
using namespace olm::test;

namespace {

/// The bytes of a file with this header and `data` bytes of data.
std::string file_of(std::string_view header, size_t data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + std::string(header) + std::string(data, '\0');
}

std::string refusal(std::string_view bytes) {
  const std::string message =
      message_of<FileError>([&] { SafetensorsFile::parse(bytes, "x.safetensors"); });
  CHECK_MESSAGE(message.starts_with("x.safetensors: "), message);
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

std::string header_refusal(std::string_view header, size_t data) {
  return refusal(file_of(header, data));
}

}  // namespace

TEST_SUITE("engine/safetensors") {
  TEST_CASE("tensors of every type come back, with metadata") {
    const TempFolder folder;
    const std::string path = folder / "t.safetensors";
    const std::vector<std::pair<std::string, Tensor>> tensors = {
        {"flag", from_host<bool>({true, false, true}, {3})},
        {"half", from_host<float16_t>({float16_t(0.5f)}, {1, 1})},
        {"bf", from_host<bfloat16_t>({bfloat16_t(1.5f), bfloat16_t(-2)}, {2})},
        {"w", from_host<float>({1, 2, 3, 4, 5, 6}, {2, 3})},
        {"d", from_host<double>({0.1}, {})},
        {"i", from_host<int32_t>({-7}, {1})},
        {"l", from_host<int64_t>({int64_t(1) << 40}, {1})},
        {"none", zeros({0, 5})}};
    write_safetensors(path, tensors, {{"format", "olm"}, {"note", "é \"quoted\""}});
    const SafetensorsFile file = SafetensorsFile::open(path);
    CHECK(file.metadata().at("note") == "é \"quoted\"");
    CHECK(file.names().size() == tensors.size());
    CHECK(file.contains("w"));
    CHECK(!file.contains("v"));
    for (const auto& [name, wanted] : tensors) {
      const Tensor got = file.tensor(name);
      CHECK(got.dtype() == wanted.dtype());
      CHECK(got.shape() == wanted.shape());
      CHECK(to_host<double>(got) == to_host<double>(wanted));
      CHECK(reinterpret_cast<uintptr_t>(got.data()) % size_of(got.dtype()) == 0);
    }
    CHECK(contains(message_of<FileError>([&] { file.tensor("v"); }), "holds no tensor \"v\""));
  }

  TEST_CASE("a tensor outlives the file object and the file") {
    const TempFolder folder;
    Tensor w;
    {
      write_safetensors(folder / "t", {{"w", from_host<float>({1, 2}, {2})}});
      w = SafetensorsFile::open(folder / "t").tensor("w");
    }
    remove_all(folder / "t");
    w.mutable_data<float>()[0] = 5;  // private pages
    CHECK(to_host<float>(w) == std::vector<float>{5, 2});
  }

  TEST_CASE("types without a tensor are raw bytes") {
    const TempFolder folder;
    const uint16_t ids[] = {1, 2, 65535};
    write_safetensors(folder / "t", {{"ids", "U16", {3}, std::as_bytes(std::span(ids))}});
    const SafetensorsFile file = SafetensorsFile::open(folder / "t");
    REQUIRE(file.bytes("ids").size() == 6);
    CHECK(std::memcmp(file.bytes("ids").data(), ids, 6) == 0);
    CHECK(file.entry("ids").dtype == "U16");
    CHECK(contains(message_of<FileError>([&] { file.tensor("ids"); }), "has dtype U16"));
  }

  TEST_CASE("a tensor that cannot be held leaves the others readable") {
    const std::string bytes =
        file_of(R"({"__metadata__":null,)"
                R"("c":{"dtype":"C64","shape":[2],"data_offsets":[0,16]},)"
                R"("deep":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,2],"data_offsets":[16,24]},)"
                R"("f4":{"dtype":"F4","shape":[3,2],"data_offsets":[24,27]},)"
                R"("f8":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[27,28]},)"
                R"("none":{"dtype":"F99","shape":[0],"data_offsets":[28,28]},)"
                R"("w":{"dtype":"F32","shape":[1],"data_offsets":[28,32]}})",
                32);
    const SafetensorsFile file = SafetensorsFile::parse(bytes, "x");
    CHECK(file.names() == std::vector<std::string>{"c", "deep", "f4", "f8", "none", "w"});
    CHECK(file.metadata().empty());
    CHECK(file.tensor("w").item<float>() == 0);
    CHECK(file.entry("c").dtype == "C64");
    CHECK(file.bytes("f4").size() == 3);
    CHECK(file.entry("deep").shape_text() == "[1,1,1,1,1,1,1,1,1,2]");
    const auto refusal_of = [&](const char* name) {
      return message_of<FileError>([&] { file.tensor(name); });
    };
    CHECK(contains(refusal_of("c"), "x: tensor \"c\" has dtype C64, a tensor of F32"));
    CHECK(contains(refusal_of("f4"), "has dtype F4"));
    CHECK(contains(refusal_of("f8"), "has dtype F8_E4M3"));
    CHECK(contains(refusal_of("deep"), "has 10 dimensions, at most 8"));
  }

  TEST_CASE("tensors are made one at a time, in the order of other programs' files") {
    const TempFolder folder;
    std::vector<std::string> events;
    const auto item = [&](const std::string& name, DType dtype) {
      return SafetensorsItem{.name = name,
                             .dtype = dtype,
                             .shape = {2},
                             .make =
                                 [&, name, dtype] {
                                   events.push_back("+" + name);
                                   return full({2}, 1.5, {.dtype = dtype});
                                 },
                             .done = [&, name] { events.push_back("-" + name); }};
    };
    write_safetensors(folder / "t",
                      {item("b", f16), item("c", f32), item("z", bf16), item("a", f32)},
                      {{"format", "pt"}});
    CHECK(events == std::vector<std::string>{"+a", "-a", "+c", "-c", "+z", "-z", "+b", "-b"});
    const SafetensorsFile file = SafetensorsFile::open(folder / "t");
    CHECK(file.names() == std::vector<std::string>{"a", "c", "z", "b"});
    for (const std::string& name : file.names())
      CHECK(to_host<double>(file.tensor(name)) == std::vector<double>{1.5, 1.5});
    SafetensorsItem other = item("a", f32);
    other.shape = {3};
    CHECK(contains(message_of<Error>([&] { write_safetensors(folder / "u", {other}); }),
                   "\"a\" was to be f32 [3], got f32 [2]"));
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("pages that are given back are read again") {
    const TempFolder folder;
    write_safetensors(folder / "t", {{"a", full({5000}, 1)}, {"b", full({5000}, 2)}});
    const SafetensorsFile file = SafetensorsFile::open(folder / "t");
    const Tensor a = file.tensor("a"), b = file.tensor("b");
    a.mutable_data<float>()[2500] = 7;
    b.mutable_data<float>()[0] = 7;
    file.release("a");
    CHECK(a.data<float>()[2500] == 1);  // what was written is lost
    CHECK(b.data<float>()[0] == 7);     // and a neighbour's is not
    CHECK(to_host<float>(a) == std::vector<float>(5000, 1.f));
  }

  TEST_CASE("unaligned data is copied") {
    const std::string bytes = file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                                      5);
    const Tensor b = SafetensorsFile::parse(bytes, "x").tensor("b");
    CHECK(reinterpret_cast<uintptr_t>(b.data()) % 4 == 0);
    CHECK(b.item<float>() == 0);
  }

  TEST_CASE("strided tensors are written as they read") {
    const TempFolder folder;
    Tensor w = from_host<float>({1, 2, 3, 4, 5, 6}, {2, 3});
    auto impl = std::make_shared<TensorImpl>(w.impl());
    impl->shape = {3, 2};
    impl->strides = {1, 3};
    write_safetensors(folder / "t", {{"w", Tensor(impl)}});
    CHECK(to_host<float>(SafetensorsFile::open(folder / "t").tensor("w")) ==
          std::vector<float>{1, 4, 2, 5, 3, 6});
  }

  TEST_CASE("a full disk leaves no file") {
    const TempFolder folder;
    std::string message;
    {
      const FileSizeLimit limit(4096);
      message = message_of<FileError>([&] {
        write_safetensors(folder / "t", {{"w", zeros({8192})}});
      });
    }
    CHECK(contains(message, "File too large"));
    CHECK(folder.entries() == 0);
  }

  TEST_CASE("what cannot be written is refused") {
    const TempFolder folder;
    const Tensor w = zeros({2});
    CHECK_THROWS_AS(write_safetensors(folder / "t", {{"w", w}, {"w", w}}), Error);
    CHECK_THROWS_AS(write_safetensors(folder / "t", {{"__metadata__", w}}), Error);
    CHECK_THROWS_AS(write_safetensors(folder / "t", {{"w", zeros({2}, {.device = meta})}}), Error);
    CHECK_THROWS_AS(write_safetensors(folder / "t", {{"w", "U16", {3}, {}}}), Error);
    CHECK_THROWS_AS(write_safetensors(folder / "t", {{"w", "Q4", {0}, {}}}), Error);
    CHECK(folder.entries() == 0);
  }

  TEST_CASE("hostile files are refused in one sentence") {
    const std::string good = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    CHECK(SafetensorsFile::parse(file_of(good, 8), "x").names().size() == 1);
    CHECK(contains(refusal(""), "0 bytes"));
    CHECK(contains(refusal("abc"), "at least 8"));
    CHECK(contains(refusal(std::string(64, '\xff')), "announce a header of"));
    CHECK(contains(refusal(std::string("\x40\0\0\0\0\0\0\0{}", 10)), "truncated"));
    CHECK(contains(header_refusal(good, 7), "truncated: tensor \"w\" ends at byte 8"));
    CHECK(contains(header_refusal(good, 9), "1 bytes after the last tensor"));
    CHECK(contains(header_refusal("", 0), "not valid JSON"));
    CHECK(contains(header_refusal("[]", 0), "an object was wanted"));
    CHECK(contains(header_refusal("{\"w\":1}", 0), "an object was wanted"));
    CHECK(contains(header_refusal("{\"w\":{}}", 0), "\"dtype\" is missing"));
    CHECK(contains(header_refusal("{\"__metadata__\":{\"a\":1}}", 0), "a string was wanted"));
    CHECK(contains(header_refusal(std::string(5000, '['), 0), "nested"));
  }

  TEST_CASE("impossible tensors are refused") {
    auto one = [](const char* dtype, const char* shape, const char* offsets, size_t data) {
      return header_refusal(detail::concat("{\"w\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                                           ",\"data_offsets\":", offsets, "}}"),
                            data);
    };
    CHECK(contains(one("F32", "[2]", "[0,4]", 8), "needs 8 bytes"));
    CHECK(contains(one("F32", "[2]", "[8,0]", 8), "offsets are 8 and 0"));
    CHECK(contains(one("F32", "[2]", "[8]", 8), "1 data offsets"));
    CHECK(contains(one("F32", "[2]", "[-8,0]", 8), "at least 0"));
    CHECK(contains(one("F32", "[-2]", "[0,8]", 8), "at least 0"));
    CHECK(contains(one("F32", "[2.5]", "[0,10]", 10), "an integer was wanted"));
    CHECK(contains(one("F32", "[4294967296,4294967296,4]", "[0,8]", 8), "impossible shape"));
    CHECK(contains(one("F32", "[9223372036854775807,0]", "[0,0]", 0), "impossible shape"));
    CHECK(contains(one("F32", "[18446744073709551615]", "[0,8]", 8), "impossible shape"));
    CHECK(contains(one("F99", "[40]", "[0,4]", 8), "at least 5 bytes"));
    CHECK(contains(one("F99", "[0]", "[0,8]", 8), "needs 0 bytes"));
    CHECK(contains(one("F99", "[2]", "[8,0]", 8), "offsets are 8 and 0"));
    CHECK(contains(one("F99", "[2]", "[0,16]", 8), "truncated"));
    CHECK(contains(one("F99", "[4294967296,4294967296,4]", "[0,8]", 8), "impossible shape"));
    CHECK(contains(one("F32", "[1,1,1,1,1,1,1,1,4294967296,4294967296]", "[0,8]", 8),
                   "impossible shape"));
    CHECK(contains(one("F32", "[2]", "[8,16]", 16), "begins at byte 8"));
    CHECK(
        contains(one("F32", "[2]", "[18446744073709551600,18446744073709551608]", 8), "truncated"));
    const std::string two = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                            R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})";
    CHECK(contains(header_refusal(two, 12), "the one before it ends at 8"));
    const std::string twice = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})";
    CHECK(contains(header_refusal(twice, 2), "\"a\" comes twice"));
    const std::string flags =
        file_of(R"({"w":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 1);
    std::string bad = flags;
    bad.back() = 2;
    CHECK(contains(message_of<FileError>([&] { SafetensorsFile::parse(bad, "x").tensor("w"); }),
                   "other than 0 and 1"));
  }
}
