#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/engine/gguf.h>
#include <tests/support/temp_folder.h>

#include <cmath>

using namespace olm;
using namespace olm::test;

namespace {

std::string fixture(const char* name) { return std::string(OLM_FIXTURES) + "/" + name; }

/// The file that make_gguf_fixtures.py calls gguf_written.gguf, written here.
void write_as_fixture(const std::string& path) {
  const GgufFile made = GgufFile::open(fixture("gguf_written.gguf"));
  GgufWriter writer;
  writer.set("general.architecture", "fixture");
  writer.set("general.quantization_version", uint32_t(2));
  writer.set("fixture.yes", true);
  writer.set("fixture.no", false);
  writer.set("fixture.large", (uint64_t(1) << 63) + 1);
  writer.set("fixture.negative", int32_t(7));
  writer.set("fixture.eps", 1e-5f);
  writer.set("fixture.text", "Grüße\n\"quoted\"");
  writer.set("fixture.tokens", std::vector<std::string>{"<s>", "", "▁a", "é"});
  writer.set("fixture.types", std::vector<int32_t>{3, 1, -1});
  writer.set("fixture.scores", std::vector<float>{0.0f, -1.5f, 1e30f});
  writer.set("fixture.flags", std::vector<bool>{true, false, true});
  for (const char* key :
       {"fixture.u8", "fixture.i8", "fixture.u16", "fixture.i16", "fixture.i64", "fixture.f64"})
    writer.set(key, made.at(key));
  writer.set("fixture.negative", int32_t(-7));  // keeps its place
  const auto add = [&](const char* name, const char* source, GgufType type) {
    const Tensor tensor = made.tensor(source);
    writer.add(name, type, tensor.shape(), [tensor] { return tensor; });
  };
  add("matrix", "matrix", GgufType::f32);
  add("narrow", "narrow", GgufType::f32);
  add("matrix.F16", "matrix", GgufType::f16);
  add("matrix.BF16", "matrix", GgufType::bf16);
  add("matrix.Q8_0", "matrix", GgufType::q8_0);
  add("narrow.Q8_0", "narrow", GgufType::q8_0);  // rows of 5: written as F16
  writer.write(path);
}

}  // namespace

TEST_SUITE("engine/gguf_write") {
  TEST_CASE("a file written here has the bytes that gguf-py gives it") {
    const TempFolder folder;
    write_as_fixture(folder / "x.gguf");
    const std::string ours = read_file(folder / "x.gguf");
    const std::string theirs = read_file(fixture("gguf_written.gguf"));
    CHECK(ours.size() == theirs.size());
    CHECK(ours == theirs);
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("values of every kind are taken over from another file") {
    const TempFolder folder;
    const GgufFile made = GgufFile::open(fixture("gguf_written.gguf"));
    GgufWriter writer;
    for (const std::string& key : made.keys()) writer.set(key, made.at(key));
    writer.write(folder / "x");
    const GgufFile again = GgufFile::open(folder / "x");
    CHECK(again.keys() == made.keys());
    for (const std::string& key : made.keys()) {
      CHECK(again.at(key).kind() == made.at(key).kind());
      CHECK(again.at(key).item_kind() == made.at(key).item_kind());
      CHECK(again.at(key).describe() == made.at(key).describe());
    }
  }

  TEST_CASE("tensors come back with their shapes, and floats alias the map") {
    const GgufFile file = GgufFile::open(fixture("gguf_written.gguf"));
    REQUIRE(file.entries().size() == 6);
    CHECK(file.entry("narrow").shape == Shape{2, 3, 5});
    CHECK(file.entry("narrow.Q8_0").type == GgufType::f16);
    const Tensor matrix = file.tensor("matrix");
    CHECK(matrix.shape() == Shape{3, 64});
    CHECK(matrix.data() == file.bytes("matrix").data());
    CHECK(file.tensor("matrix.F16").dtype() == f16);
    CHECK(file.tensor("matrix.BF16").dtype() == bf16);
    CHECK(file.tensor("matrix.Q8_0").dtype() == f32);
    const auto exact = to_host<double>(matrix);
    for (const auto& [name, bound] :
         {std::pair{"matrix.F16", 1e-3}, {"matrix.BF16", 1e-2}, {"matrix.Q8_0", 2e-2}}) {
      const auto rounded = to_host<double>(file.tensor(name));
      for (size_t i = 0; i < exact.size(); ++i)
        CHECK(std::abs(rounded[i] - exact[i]) <= bound * (1 + std::abs(exact[i])));
    }
  }

  TEST_CASE("a tensor outlives the file, and pages that are given back are read again") {
    const TempFolder folder;
    Tensor w;
    {
      GgufWriter writer;
      writer.add("u", GgufType::f32, {4}, [] { return full({4}, 2); });
      writer.add("w", GgufType::f32, {1 << 16}, [] { return arange(1 << 16, {.dtype = f32}); });
      writer.add("v", GgufType::f32, {4}, [] { return full({4}, 3); });
      writer.write(folder / "x");
      const GgufFile file = GgufFile::open(folder / "x");
      w = file.tensor("w");
      Tensor u = file.tensor("u"), v = file.tensor("v");
      u.mutable_data<float>()[0] = 4;  // private pages
      v.mutable_data<float>()[0] = 5;
      Tensor(w).mutable_data<float>()[1 << 15] = -1;
      file.release("w");
      CHECK(w.data<float>()[1 << 15] == float(1 << 15));
      CHECK(u.data<float>()[0] == 4);  // the pages of others stay
      CHECK(v.data<float>()[0] == 5);
      GgufFile::parse(read_file(folder / "x"), "x").release("w");
    }
    remove_all(folder / "x");
    CHECK(w.data<float>()[(1 << 16) - 1] == float((1 << 16) - 1));
  }

  TEST_CASE("tensors of any float dtype and layout are written") {
    const TempFolder folder;
    const std::vector<float> values = {1, 2, 3, 4, 5, 6};
    Tensor turned = from_host<float>(values, {2, 3});
    auto impl = std::make_shared<TensorImpl>(turned.impl());
    impl->shape = {3, 2};
    impl->strides = {1, 3};
    turned = Tensor(impl);
    GgufWriter writer;
    writer.add("turned", GgufType::f16, {3, 2}, [&] { return turned; });
    writer.add("d", GgufType::f32, {1}, [] { return from_host<double>({0.1}, {1}); });
    writer.add("h", GgufType::bf16, {1}, [] { return from_host<float16_t>({float16_t(-2)}, {1}); });
    writer.add("b", GgufType::bf16, {1},
               [] { return from_host<bfloat16_t>({bfloat16_t(3)}, {1}); });
    writer.add("none", GgufType::q8_0, {0, 32}, [] { return zeros({0, 32}); });
    writer.add("scalar", GgufType::f32, {}, [] { return full({}, 7); });
    std::vector<float> rising(40000 * 32);  // more than one piece
    for (size_t i = 0; i < rising.size(); ++i) rising[i] = float(i >> 14);
    writer.add("long", GgufType::bf16, {40000, 32}, [&] { return from_host(rising, {40000, 32}); });
    writer.write(folder / "x");
    const GgufFile file = GgufFile::open(folder / "x");
    CHECK(to_host<float>(file.tensor("turned")) == std::vector<float>{1, 4, 2, 5, 3, 6});
    CHECK(file.tensor("d").item<float>() == 0.1f);
    CHECK(to_host<float>(file.tensor("h")) == std::vector<float>{-2});
    CHECK(to_host<float>(file.tensor("b")) == std::vector<float>{3});
    CHECK(file.tensor("none").numel() == 0);
    CHECK(file.tensor("scalar").item<float>() == 7);
    CHECK(to_host<float>(file.tensor("long")) == rising);
  }

  TEST_CASE("what a file cannot hold is refused, and nothing stays behind") {
    const TempFolder folder;
    const auto make = [] { return zeros({2}); };
    GgufWriter writer;
    writer.add("w", GgufType::f32, {2}, make);
    CHECK_THROWS_AS(writer.add("w", GgufType::f32, {2}, make), Error);
    CHECK_THROWS_AS(writer.add("", GgufType::f32, {2}, make), Error);
    CHECK_THROWS_AS(writer.add(std::string(64, 'n'), GgufType::f32, {2}, make), Error);
    CHECK_THROWS_AS(writer.add("v", GgufType::q4_k, {256}, make), Error);
    CHECK_THROWS_AS(writer.add("v", GgufType::f32, {1, 1, 1, 1, 2}, make), Error);
    CHECK_THROWS_AS(writer.set("", true), Error);
    CHECK_THROWS_AS(writer.set("general.alignment", uint32_t(64)), Error);
    CHECK_NOTHROW(writer.set("general.alignment", uint32_t(32)));
    const auto refusal_of = [&](std::function<Tensor()> other) {
      GgufWriter bad = writer;
      bad.add("v", GgufType::f32, {3}, std::move(other));
      return message_of<Error>([&] { bad.write(folder / "x"); });
    };
    CHECK(contains(refusal_of([] { return zeros({2}); }), "announced as [3], what came is f32[2]"));
    CHECK(contains(refusal_of([] { return zeros({3}, {.dtype = i32}); }), "what came is i32[3]"));
    CHECK(contains(refusal_of([] { return zeros({3}, {.device = meta}); }), "is f32[3] on meta"));
    CHECK(contains(refusal_of([] { return Tensor(); }), "what came is none"));
    CHECK(contains(refusal_of([]() -> Tensor { fail("no such weight"); }), "no such weight"));
    {
      const FileSizeLimit limit(4096);
      writer.add("large", GgufType::f16, {8192}, [] { return zeros({8192}); });
      CHECK(contains(message_of<FileError>([&] { writer.write(folder / "x"); }), "File too large"));
    }
    CHECK(folder.entries() == 0);
  }
}
