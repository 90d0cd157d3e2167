#include <olm/engine/sum_tree.h>

#include <algorithm>
#include <bit>

namespace olm {
namespace {

/// How many terms of a node of n > 1 its first child has.
int64_t first_half(int64_t n) { return int64_t(std::bit_floor(uint64_t(n - 1))); }

}  // namespace

SumTree::SumTree(int64_t terms) : terms_(terms) {
  require(terms >= 1, "SumTree: wanted at least one term, got ", terms);
}

std::vector<SumTree::Node> SumTree::cut(int64_t parts) const {
  require(parts >= 1 && parts <= terms_, "SumTree: wanted 1 to ", terms_, " parts of ", terms_,
          " terms, got ", parts);
  // The largest on top; of those of one size the first.
  const auto later = [](const Node& a, const Node& b) {
    return a.size() != b.size() ? a.size() < b.size() : a.begin > b.begin;
  };
  std::vector<Node> nodes = {{0, terms_}};
  while (int64_t(nodes.size()) < parts) {
    std::pop_heap(nodes.begin(), nodes.end(), later);
    const Node node = nodes.back();
    const int64_t middle = node.begin + first_half(node.size());
    nodes.back() = {node.begin, middle};
    std::push_heap(nodes.begin(), nodes.end(), later);
    nodes.push_back({middle, node.end});
    std::push_heap(nodes.begin(), nodes.end(), later);
  }
  std::sort(nodes.begin(), nodes.end(), [](Node a, Node b) { return a.begin < b.begin; });
  return nodes;
}

std::vector<SumTree::Addition> SumTree::additions(int64_t parts) const {
  const std::vector<Node> nodes = cut(parts);
  std::vector<Addition> result;
  // A stack of nodes in order, of which the last two are added as soon as they make a node.
  struct Open {
    int64_t begin, end, number;
  };
  std::vector<Open> open;
  const auto makes_node = [&](const Open& a, const Open& b) {
    Node node = {0, terms_};
    while (node.size() > 1) {  // down to where a and b part
      const int64_t middle = node.begin + first_half(node.size());
      if (node.begin == a.begin && middle == a.end && node.end == b.end) return true;
      if (a.begin >= middle)
        node.begin = middle;
      else
        node.end = middle;
    }
    return false;
  };
  for (int64_t i = 0; i < parts; ++i) {
    open.push_back({nodes[i].begin, nodes[i].end, i});
    while (open.size() > 1 && makes_node(open[open.size() - 2], open.back())) {
      Open& into = open[open.size() - 2];
      result.push_back({into.number, open.back().number});
      into.end = open.back().end;
      open.pop_back();
    }
  }
  return result;
}

int64_t SumTree::additions_after(int64_t i, int64_t n) {
  require(i >= 0 && i < n, "SumTree: wanted a term below ", n, ", got ", i);
  // Perfect trees of powers of two grow as the digits of a binary counter carry; after the last
  // term those that are left, of falling size, are added from the smallest on.
  const int64_t carries = std::countr_zero(uint64_t(i) + 1);
  return i + 1 < n ? carries : carries + std::popcount(uint64_t(n)) - 1;
}

}  // namespace olm
