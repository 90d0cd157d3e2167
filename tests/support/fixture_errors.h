#pragma once
// The committed fixtures by file and case, and how far this library is from each of them.
#include <string>
#include <vector>

namespace olm::test {

/// One case of a file of fixtures: "moe.safetensors", "MoERouter". A file family_NAME or
/// curves_NAME is one case, NAME.
struct FixtureCase {
  std::string file = {}, name = {};
  auto operator<=>(const FixtureCase&) const = default;
};

/// Every case of every tests/fixtures/*.safetensors, sorted.
std::vector<FixtureCase> fixture_cases();

/// What computed a case: PyTorch, OpenLanguageModel, transformers or the formula of a paper.
/// Throws for a file that has no row in the table of makers.
std::string maker_of(const FixtureCase& fixture);

enum class FixturePart { output, gradient };
/// Notes an error that a test compared with `tolerance`; of those of one part of a case the largest
/// stays.
void record_fixture(const FixtureCase& fixture, FixturePart part, double error, double tolerance);

/// docs/fixtures.md from what was recorded so far. Throws naming a case of which no output was.
std::string fixtures_page();

}  // namespace olm::test
