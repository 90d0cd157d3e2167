// Pairs are cut into chunks: each counts its experts, one scan over experts and chunks gives every
// chunk its places, and each writes there. So the order is that of the pairs, for any number of
// threads. Rows are moved as bytes; memory bound, each row of x is read once from memory and top_k
// - 1 times from a cache.
#include <algorithm>
#include <cstring>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/check_indices.h>
#include <olm/kernels/moe_permute.h>

namespace olm::kernels {
namespace {

constexpr int64_t kMinChunk = 4096;  // pairs; tens of microseconds

/// counts[chunk, e] becomes the first place of expert e's pairs of that chunk.
void scan_counts(const MoESort& k, int64_t chunks, int32_t* counts) {
  int32_t next = 0;
  for (int64_t e = 0; e < k.num_experts; ++e) {
    k.offsets[e] = next;
    for (int64_t c = 0; c < chunks; ++c) {
      const int32_t count = counts[c * k.num_experts + e];
      counts[c * k.num_experts + e] = next;
      next += count;
    }
  }
  k.offsets[k.num_experts] = next;
}

template <class Id>
void sort_pairs(const MoESort& k) {
  const int64_t per_chunk = std::max(kMinChunk, k.num_experts);
  const int64_t chunks = ceil_div(k.pairs, per_chunk);
  const Id* experts = in<Id>(k.experts);
  const auto counts = k.stream.scratch<int32_t>(size_t(chunks * k.num_experts));
  const auto counts_of = [&](int64_t begin) {
    return counts.get() + begin / per_chunk * k.num_experts;
  };
  parallel_for(k.pairs, per_chunk, [&](int64_t begin, int64_t end) {
    int32_t* own = counts_of(begin);
    std::fill_n(own, k.num_experts, 0);
    for (int64_t i = begin; i < end; ++i) ++own[experts[i]];
  });
  scan_counts(k, chunks, counts);
  parallel_for(k.pairs, per_chunk, [&](int64_t begin, int64_t end) {
    int32_t* next = counts_of(begin);
    for (int64_t i = begin; i < end; ++i) {
      const int32_t place = next[experts[i]]++;
      k.rows[place] = int32_t(i);
      k.positions[i] = place;
    }
  });
}

}  // namespace

void run(Cpu, const MoESort& k) {
  require(k.pairs <= INT32_MAX, "moe_sort: ", k.pairs, " pairs do not fit i32");
  check_indices(k.name, k.index_dtype, k.experts, k.pairs, k.num_experts);
  visit_index(k.index_dtype, [&]<class Id>() { sort_pairs<Id>(k); });
}

void run(Cpu, const MoEPermute& k) {
  check_indices(k.name, i32, k.rows, k.pairs, k.pairs);
  if (k.pairs * k.cols == 0) return;
  const int64_t bytes = k.cols * int64_t(size_of(k.dtype));
  parallel_for(k.pairs, rows_per_range(k.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(row_out<char>(k.y, i, bytes), row<char>(k.x, k.rows[i] / k.top_k, bytes),
                  size_t(bytes));
  });
}

}  // namespace olm::kernels
