#pragma once
// The order in which a sum is taken, so that it has the same bits however its terms are spread.
#include <cstdint>
#include <utility>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm {

/// A fixed binary tree over n terms: a node over n > 1 terms adds the node of the first p of them,
/// p the largest power of two below n, and the node of the others. Its shape depends on n alone,
/// so that whoever holds the terms of a node can make its sum without the others.
class OLM_API SumTree {
 public:
  /// Terms [begin, end).
  struct Node {
    int64_t begin = 0, end = 0;
    int64_t size() const { return end - begin; }
    bool operator==(const Node&) const = default;
  };
  /// sums[into] += sums[from], then `from` is done with.
  struct Addition {
    int64_t into = 0, from = 0;
    bool operator==(const Addition&) const = default;
  };

  explicit SumTree(int64_t terms = 1);
  int64_t terms() const { return terms_; }
  /// The tree cut into `parts` nodes, in order: the largest, of those the first, is cut as long as
  /// there are fewer. Of equal size where terms / parts is a power of two. Throws for more parts
  /// than terms.
  std::vector<Node> cut(int64_t parts) const;
  /// How sums of the nodes of cut(parts), numbered from 0, make the sum of all, which ends in 0.
  std::vector<Addition> additions(int64_t parts) const;
  /// How the sum of a node of n terms is taken while they come, in order: on a stack. After term i
  /// is pushed its two topmost sums are replaced by their sum this many times; after the last term
  /// one sum is left.
  static int64_t additions_after(int64_t i, int64_t n);

 private:
  int64_t terms_;
};

}  // namespace olm
