#include <doctest/doctest.h>
#include <olm/engine/gguf.h>

#include <cmath>
#include <cstring>

using namespace olm;

namespace {

std::string fixture(const char* name) { return std::string(OLM_FIXTURES) + "/" + name; }

std::vector<float> floats_of(const GgufFile& file, const std::string& name) {
  const auto bytes = file.bytes(name);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// Places where bits differ, but for NaNs, of which any will do: their bits are the machine's.
int64_t differences(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::isnan(a[i]) != std::isnan(b[i]) ||
        (!std::isnan(a[i]) && std::memcmp(&a[i], &b[i], sizeof(float)) != 0))
      ++count;
  return count;
}

constexpr GgufType kRead[] = {GgufType::f32,  GgufType::f16,  GgufType::bf16, GgufType::q8_0,
                              GgufType::q4_0, GgufType::q4_1, GgufType::q5_0, GgufType::q5_1,
                              GgufType::q2_k, GgufType::q3_k, GgufType::q4_k, GgufType::q5_k,
                              GgufType::q6_k};

}  // namespace

TEST_SUITE("engine/gguf_types") {
  TEST_CASE("blocks of every type decode to what gguf-py makes of them") {
    const GgufFile file = GgufFile::open(fixture("gguf_types.gguf"));
    for (const GgufType type : kRead) {
      const std::string name = info_of(type).name;
      INFO(name);
      const auto blocks = file.bytes("blocks." + name);
      const std::vector<float> wanted = floats_of(file, "values." + name);
      REQUIRE(wanted.size() > 0);
      CHECK(file.entry("blocks." + name).type == type);
      std::vector<float> got(wanted.size(), -1);
      dequantize(type, blocks.data(), int64_t(got.size()), got.data());
      CHECK(differences(got, wanted) == 0);
    }
  }

  TEST_CASE("numbers are rounded as gguf-py rounds them") {
    const GgufFile file = GgufFile::open(fixture("gguf_types.gguf"));
    for (const auto& [type, source] : {std::pair{GgufType::f16, "floats"},
                                       {GgufType::bf16, "floats"},
                                       {GgufType::q8_0, "halves"}}) {
      const std::string name = info_of(type).name;
      const std::vector<float> values = floats_of(file, source);
      const auto wanted = file.bytes("written." + name);
      std::vector<std::byte> got(wanted.size());
      quantize(type, values.data(), int64_t(values.size()), got.data());
      size_t others = 0, first = 0;
      for (size_t i = 0; i < got.size(); ++i)
        if (got[i] != wanted[i] && others++ == 0) first = i;
      CHECK_MESSAGE(others == 0, name, ": ", others, " bytes differ, the first at ", first);
    }
  }

  TEST_CASE("long tensors decode in pieces to the same values") {
    const GgufFile file = GgufFile::open(fixture("gguf_types.gguf"));
    for (const GgufType type : kRead) {
      const GgufTypeInfo& info = info_of(type);
      const auto few = file.bytes(std::string("blocks.") + info.name);
      const int64_t n = int64_t(few.size() / info.block_bytes) * info.block_elements;
      const int64_t copies = 100'000 / n + 1;
      std::vector<std::byte> many;
      for (int64_t i = 0; i < copies; ++i) many.insert(many.end(), few.begin(), few.end());
      std::vector<float> once(few.size() / info.block_bytes * size_t(info.block_elements));
      std::vector<float> all(once.size() * size_t(copies));
      dequantize(type, few.data(), n, once.data());
      dequantize(type, many.data(), n * copies, all.data());
      for (int64_t i = 0; i < copies; ++i)
        CHECK(differences(std::span(all).subspan(size_t(i * n), size_t(n)), once) == 0);
    }
  }
}
