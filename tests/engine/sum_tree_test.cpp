#include <doctest/doctest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include <olm/engine/sum_tree.h>

using namespace olm;

namespace {

using Nodes = std::vector<SumTree::Node>;

int64_t middle_of(int64_t begin, int64_t end) {
  int64_t p = 1;
  while (2 * p < end - begin) p *= 2;
  return begin + p;
}

/// The sum of terms [begin, end) as the definition of the tree writes it.
std::string expression(int64_t begin, int64_t end) {
  if (end - begin == 1) return std::to_string(begin);
  const int64_t middle = middle_of(begin, end);
  return "(" + expression(begin, middle) + "+" + expression(middle, end) + ")";
}

bool is_node(int64_t begin, int64_t end, SumTree::Node node) {
  if (begin == node.begin && end == node.end) return true;
  if (end - begin == 1) return false;
  const int64_t middle = middle_of(begin, end);
  return is_node(begin, middle, node) || is_node(middle, end, node);
}

/// The sum of a node whose terms come in order.
std::string by_stack(SumTree::Node node) {
  std::vector<std::string> stack;
  for (int64_t i = 0; i < node.size(); ++i) {
    stack.push_back(std::to_string(node.begin + i));
    for (int64_t k = SumTree::additions_after(i, node.size()); k > 0; --k) {
      REQUIRE(stack.size() >= 2);
      const std::string last = stack.back();
      stack.pop_back();
      stack.back() = "(" + stack.back() + "+" + last + ")";
    }
  }
  REQUIRE(stack.size() == 1);
  return stack[0];
}

}  // namespace

TEST_SUITE("engine/sum_tree") {
  TEST_CASE("a tree cut among ranks is the whole tree's sum") {
    for (int64_t terms = 1; terms <= 40; ++terms) {
      const SumTree tree(terms);
      CHECK(tree.terms() == terms);
      for (int64_t parts = 1; parts <= terms; ++parts) {
        CAPTURE(terms);
        CAPTURE(parts);
        const Nodes nodes = tree.cut(parts);
        REQUIRE(int64_t(nodes.size()) == parts);
        std::vector<std::string> sums;
        int64_t end = 0;
        for (const SumTree::Node& node : nodes) {
          CHECK(node.begin == end);
          CHECK(is_node(0, terms, node));
          end = node.end;
          sums.push_back(by_stack(node));
          CHECK(sums.back() == expression(node.begin, node.end));
        }
        CHECK(end == terms);
        std::set<int64_t> gone;
        for (const auto& [into, from] : tree.additions(parts)) {
          CHECK(gone.count(into) == 0);
          CHECK(gone.insert(from).second);
          sums[into] = "(" + sums[into] + "+" + sums[from] + ")";
        }
        CHECK(int64_t(gone.size()) == parts - 1);
        CHECK(sums[0] == expression(0, terms));
      }
    }
  }

  TEST_CASE("parts are as even as nodes can be") {
    CHECK(SumTree(8).cut(4) == Nodes{{0, 2}, {2, 4}, {4, 6}, {6, 8}});
    CHECK(SumTree(8).cut(3) == Nodes{{0, 2}, {2, 4}, {4, 8}});
    CHECK(SumTree(6).cut(2) == Nodes{{0, 4}, {4, 6}});
    CHECK(SumTree(6).cut(3) == Nodes{{0, 2}, {2, 4}, {4, 6}});
    for (int64_t parts = 1; parts <= 1024; parts *= 2)
      for (const SumTree::Node& node : SumTree(1024).cut(parts)) CHECK(node.size() == 1024 / parts);
  }

  TEST_CASE("more parts than terms, and no terms, are errors") {
    CHECK_THROWS_WITH_AS(SumTree(4).cut(5), "SumTree: wanted 1 to 4 parts of 4 terms, got 5",
                         Error);
    CHECK_THROWS_WITH_AS(SumTree(4).additions(0), "SumTree: wanted 1 to 4 parts of 4 terms, got 0",
                         Error);
    CHECK_THROWS_WITH_AS(SumTree(0), "SumTree: wanted at least one term, got 0", Error);
    CHECK_THROWS_WITH_AS(SumTree::additions_after(3, 3), "SumTree: wanted a term below 3, got 3",
                         Error);
  }
}
