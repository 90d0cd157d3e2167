#pragma once
// Ids to make batches of.
#include <olm/nn/data.h>

#include <numeric>
#include <vector>

namespace olm::test {

/// The ids 0, 1, … n - 1: what is read says where it stood.
inline nn::TokenDataset counting(int32_t n, int64_t vocab_size = 1'000'000) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return nn::TokenDataset::from_ids(ids, vocab_size);
}

}  // namespace olm::test
