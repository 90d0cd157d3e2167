// A model whose matrices are of all types that GGUF files have and this library reads.
#include <doctest/doctest.h>
#include <olm/engine/gguf.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub.h>
#include <olm/nn/hub/stored_internal.h>
#include <tests/support/temp_folder.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

std::string fixture(const char* name) { return std::string(OLM_FIXTURES) + "/gguf/" + name; }

const char* const kModel = "mixed_types.gguf";

double largest_of(const std::vector<double>& values) {
  double largest = 0;
  for (const double v : values) largest = std::max(largest, std::abs(v));
  return largest;
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

/// W·u of a matrix, or u·W, with u[i] = cos(i).
std::vector<double> projected(const Tensor& matrix, bool rows) {
  const std::vector<double> values = to_host<double>(matrix);
  const int64_t height = matrix.size(0), width = matrix.size(1);
  std::vector<double> sums(size_t(rows ? height : width));
  for (int64_t r = 0; r < height; ++r)
    for (int64_t c = 0; c < width; ++c)
      sums[size_t(rows ? r : c)] += values[size_t(r * width + c)] * std::cos(double(rows ? c : r));
  return sums;
}

/// The tensors of a model as its file calls them.
std::vector<hub::PlannedTensor> under_gguf_names(const hub::StoredModel& model) {
  return hub::plan(model, hub::family_of("llama").gguf_names);
}

Tensor logits_of(const Pretrained& model, const Tensor& ids) {
  const NoGrad guard;
  return (*model.model)(ids);
}

}  // namespace

TEST_SUITE("nn/hub/gguf_types") {
  TEST_CASE("matrices of every type are what gguf-py makes of them") {
    const SafetensorsFile oracle = SafetensorsFile::open(fixture("mixed_types.safetensors"));
    const Pretrained model = load_pretrained(fixture(kModel));
    std::set<std::string> types;
    for (const auto& tensor : inspect_pretrained(fixture(kModel)).tensors)
      types.insert(tensor.type);
    CHECK(types == std::set<std::string>{"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0",
                                         "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"});
    int64_t matrices = 0;
    for (const hub::PlannedTensor& planned : under_gguf_names(hub::stored(model))) {
      if (planned.shape.rank() != 2) continue;
      INFO(planned.name);
      const Tensor matrix = planned.make();
      for (const bool rows : {true, false}) {
        const auto wanted =
            to_host<double>(oracle.tensor(planned.name + (rows ? "/rows" : "/columns")));
        // Only the order of sums differs.
        CHECK(difference(projected(matrix, rows), wanted) <= 1e-13 * (1 + largest_of(wanted)));
      }
      ++matrices;
    }
    CHECK(matrices == 16);
  }

  TEST_CASE("its logits are those of transformers on the same weights") {
    const SafetensorsFile oracle = SafetensorsFile::open(fixture("mixed_types.safetensors"));
    const Pretrained model = load_pretrained(fixture(kModel), {.dtype = f32});
    const auto wanted = to_host<double>(oracle.tensor("logits"));
    const auto got = to_host<double>(logits_of(model, oracle.tensor("ids")));
    CHECK(difference(got, wanted) <= 1e-5 * largest_of(wanted));
  }

  TEST_CASE("what is written as it was comes back bit by bit, quantised matrices as f32") {
    const TempFolder folder;
    const Pretrained model = load_pretrained(fixture(kModel));
    save_gguf(model, folder / "again.gguf");
    const GgufFile before = GgufFile::open(fixture(kModel));
    const GgufFile after = GgufFile::open(folder / "again.gguf");
    REQUIRE(after.entries().size() == before.entries().size());
    for (const GgufEntry& entry : before.entries()) {
      INFO(entry.name);
      const Tensor a = before.tensor(entry.name), b = after.tensor(entry.name);
      REQUIRE(a.dtype() == b.dtype());
      REQUIRE(a.shape() == b.shape());
      CHECK(std::memcmp(a.data(), b.data(), size_t(a.numel()) * size_of(a.dtype())) == 0);
    }
  }
}
