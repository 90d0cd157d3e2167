// docs/fixtures.md names every fixture.
#include <doctest/doctest.h>

#include <cstdlib>
#include <set>

#include <olm/engine/file.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/markdown.h>

using namespace olm;
using namespace olm::test;

namespace {

std::string unquoted(const std::string& cell) { return cell.substr(1, cell.size() - 2); }

double number(const std::string& cell) {
  char* end = nullptr;
  const double value = std::strtod(cell.c_str(), &end);
  CHECK_MESSAGE(end != cell.c_str(), "no number: ", cell);
  return value;
}

}  // namespace

TEST_SUITE("docs/fixtures") {
  TEST_CASE("the table names every case once, and no error is above its tolerance") {
    const auto rows = table_rows(read_file(std::string(OLM_FIXTURES) + "/../../docs/fixtures.md"));
    std::set<FixtureCase> listed;
    for (const std::vector<std::string>& row : rows) {
      REQUIRE(row.size() == 6);
      const FixtureCase fixture{unquoted(row[0]), unquoted(row[1])};
      INFO(fixture.file, " ", fixture.name);
      CHECK(listed.insert(fixture).second);
      CHECK(row[2] == maker_of(fixture));
      const std::string tolerances = row[5];
      CHECK(number(row[3]) <= number(tolerances));
      const size_t comma = tolerances.find(", ");
      if (!row[4].empty())
        CHECK(number(row[4]) <=
              number(comma == std::string::npos ? tolerances : tolerances.substr(comma + 2)));
    }
    const std::vector<FixtureCase> cases = fixture_cases();
    CHECK(cases.size() >= 375);
    CHECK(std::vector(listed.begin(), listed.end()) == cases);
  }
}
