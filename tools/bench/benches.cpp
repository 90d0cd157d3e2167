// The table of benchmarks, which the tests read too.
#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

/// Elements of `count` tensors over the first `axes` axes.
template <int count, int axes>
double tensors_of(const Sizes& shape) {
  double product = count;
  for (int i = 0; i < axes; ++i) product *= double(shape[size_t(i)]);
  return product;
}
double elements_of_gemm(const Sizes& s) {
  const auto m = double(s[0]), n = double(s[1]), k = double(s[2]);
  return m * k + k * n + m * n;
}
/// Rows of a table, ids, and the table's gradient.
double elements_of_table(const Sizes& s) {
  const auto rows = double(s[0]), vocab = double(s[1]), d = double(s[2]);
  return 2 * (rows + vocab) * d + 2 * rows;
}
/// Parameters, gradients and moments, and what a tensor takes besides.
double elements_of_parameters(const Sizes& s) {
  const auto tensors = double(s[0]), rows = double(s[1]), cols = double(s[2]);
  return 4 * tensors * (rows * cols + 100);
}
/// Rows of inputs and results, and the groups' matrices.
double elements_of_groups(const Sizes& s) {
  const auto rows = double(s[0]), out = double(s[1]), in = double(s[2]), groups = double(s[3]);
  return 2 * rows * (out + in) + 2 * groups * out * in;
}
/// Rows of each token's two experts, the experts of half the width, and the dense network beside.
double elements_of_moe(const Sizes& s) {
  const auto rows = double(s[0]), d = double(s[1]), hidden = double(s[2]), experts = double(s[3]);
  return rows * (14 * d + 14 * hidden) + 3 * (experts + 2) * d * hidden;
}
/// The layers' weights, table and head, and the cache.
double elements_of_generate(const Sizes& s) {
  const auto layers = double(s[0]), d = double(s[1]), tokens = double(s[2]);
  return layers * (11 * d * d + tokens * d) + 32 * d * d;
}

using Shapes = std::vector<Sizes>;

/// What a layer of experts is made of, and the whole of it.
std::vector<Bench> benches_of_mixtures(const Shapes& odd_rows) {
  return {
      {"moe_route",
       "TOKENSxEXPERTS",
       tensors_of<5, 2>,
       {{4096, 64}},
       {{1, 2}, {3, 8}, {257, 33}, {70, 256}},
       add_moe_route},
      {"moe_permute", "TOKENSxD", tensors_of<6, 2>, {{4096, 512}}, odd_rows, add_moe_permute},
      {"grouped_gemm",
       "ROWSxOUTxINxGROUPS",
       elements_of_groups,
       {{8192, 1408, 512, 8}, {8192, 1408, 512, 64}},
       {{2, 3, 5, 2}, {65, 33, 31, 3}, {300, 130, 70, 7}},
       add_grouped_gemm},
      {"moe_combine", "TOKENSxD", tensors_of<8, 2>, {{4096, 512}}, odd_rows, add_moe_combine},
      {"moe",
       "TOKENSxDxHIDDENxEXPERTS",
       elements_of_moe,
       {{4096, 512, 1408, 8}, {4096, 512, 1408, 64}},
       {{1, 3, 4, 2}, {33, 65, 30, 5}, {300, 64, 128, 16}},
       add_moe},
  };
}

std::vector<Bench> joined(std::vector<Bench> all, const std::vector<Bench>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

const std::vector<Bench>& benches() {
  static const Shapes gemms{
      {4096, 2304, 768}, {4096, 768, 768},  {4096, 3072, 768}, {4096, 768, 3072},
      {4096, 256, 256},  {4096, 1024, 256}, {3072, 1152, 384}, {3072, 1536, 384},
      {4096, 512, 512},  {4096, 1408, 512}, {256, 3072, 768},  {2048, 50257, 768},
      {256, 256, 64},    {256, 64, 256},    {512, 512, 64},    {512, 64, 512}};
  static const Shapes odd_gemms{{1, 1, 1},     {1, 300, 70},    {7, 65, 130},
                                {300, 1, 70},  {33, 65, 31},    {64, 64, 64},
                                {130, 131, 2}, {97, 200, 1111}, {40, 50257, 64}};
  static const Shapes odd_rows{{1, 3},    {3, 8},      {7, 33},   {130, 768},
                               {5, 4099}, {257, 2048}, {3, 50257}};
  static const Shapes attention{{4, 8, 512, 64}, {4, 8, 2048, 64}};
  static const Shapes odd_attention{{1, 1, 1, 2}, {1, 2, 31, 16}, {2, 3, 130, 64}, {1, 2, 257, 80}};
  static const Shapes heads{{1024, 50257, 768}, {4096, 8192, 512}};
  static const std::vector<Bench> others{
      {"gemm", "MxNxK", elements_of_gemm, gemms, odd_gemms, add_gemm},
      {"flash_attention", "BxHxTxD", tensors_of<12, 4>, attention, odd_attention,
       add_flash_attention},
      {"rms_norm", "ROWSxCOLS", tensors_of<4, 2>, {{4096, 768}}, odd_rows, add_rms_norm},
      {"layer_norm", "ROWSxCOLS", tensors_of<4, 2>, {{4096, 768}}, odd_rows, add_layer_norm},
      {"add_norm", "ROWSxCOLS", tensors_of<8, 2>, {{4096, 768}}, odd_rows, add_add_norm},
      {"swiglu", "ROWSxHIDDEN", tensors_of<6, 2>, {{4096, 2048}}, odd_rows, add_swiglu},
      {"gelu", "ROWSxCOLS", tensors_of<4, 2>, {{4096, 3072}}, odd_rows, add_gelu},
      {"softmax", "ROWSxCOLS", tensors_of<4, 2>, {{16384, 512}}, odd_rows, add_softmax},
      {"cross_entropy",
       "ROWSxCLASSES",
       tensors_of<4, 2>,
       {{1024, 50257}, {4096, 8192}},
       odd_rows,
       add_cross_entropy},
      {"linear_cross_entropy",
       "ROWSxCLASSESxD",
       elements_of_table,
       heads,
       {{1, 2, 1}, {33, 65, 31}, {70, 50257, 16}},
       add_linear_cross_entropy},
      {"embedding",
       "ROWSxVOCABxD",
       elements_of_table,
       {{4096, 50257, 768}},
       {{1, 1, 1}, {65, 7, 33}, {300, 1000, 70}, {4096, 50257, 8}},
       add_embedding},
      {"rope", "BxHxTxD", tensors_of<6, 4>, attention, odd_attention, add_rope},
      {"adamw",
       "TENSORSxROWSxCOLS",
       elements_of_parameters,
       {{8, 768, 3072}},
       {{3, 7, 33}, {8, 100, 300}},
       add_adamw},
      {"muon",
       "TENSORSxROWSxCOLS",
       elements_of_parameters,
       {{4, 768, 3072}},
       {{3, 7, 33}, {2, 300, 100}},
       add_muon},
      {"generate",
       "LAYERSxDxTOKENS",
       elements_of_generate,
       {{8, 512, 128}},
       {{1, 128, 2}},
       add_generate},
  };
  static const std::vector<Bench> table = joined(others, benches_of_mixtures(odd_rows));
  return table;
}

}  // namespace olm::tools
