#pragma once
// Tokens for trainings that take no time.
#include <olm/nn/data.h>

namespace olm::test {

constexpr int64_t kVocab = 7, kContext = 8;

/// Other ones for each `step`.
inline nn::TokenDataset small_tokens(int64_t count = 2000, int64_t step = 1) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t((i * i * step + i / 3) % kVocab));
  return nn::TokenDataset::from_ids(ids, kVocab);
}

}  // namespace olm::test
