#pragma once
// Every way to scale RoPE.
#include <string>
#include <vector>

#include <olm/nn/embeddings.h>

namespace olm::test {

/// One of each type that scales `factor` times from 8 positions, for heads of `dim`.
inline std::vector<nn::RopeScalingOptions> one_of_each(double factor, int64_t dim) {
  std::vector<nn::RopeScalingOptions> all;
  for (const char* type : {"linear", "ntk", "dynamic_ntk", "yarn", "llama3", "longrope"}) {
    all.push_back({.scaling_type = type, .scaling_factor = factor, .original_max_seq_len = 8});
    if (std::string(type) != "longrope") continue;
    all.back().short_factor = std::vector<double>(size_t(dim / 2), 1.0);
    all.back().long_factor = std::vector<double>(size_t(dim / 2), factor);
  }
  return all;
}

}  // namespace olm::test
