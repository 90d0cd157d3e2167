// docs/components.md says what the components do.
#include <doctest/doctest.h>

#include <cstdlib>

#include <olm/engine/file.h>
#include <tests/support/components.h>
#include <tests/support/markdown.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("docs/components") {
  TEST_CASE("the table names every component and says what it does") {
    const std::vector<ComponentFacts> facts = run_components();
    if (const char* path = std::getenv("OLM_COMPONENTS")) write_file(path, components_page(facts));
    const std::string page = read_file(std::string(OLM_FIXTURES) + "/../../docs/components.md");
    const auto rows = table_rows(page), now = table_rows(components_page(facts));
    REQUIRE(facts.size() == 51);
    REQUIRE(rows.size() == facts.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      INFO(facts[i].name);
      REQUIRE(rows[i].size() == 7);
      REQUIRE(now[i].size() == 7);
      for (const std::string& cell : rows[i]) CHECK(!cell.empty());
      for (size_t column = 0; column < 6; ++column) CHECK(rows[i][column] == now[i][column]);
      CHECK((rows[i][6] == "none") == (now[i][6] == "none"));
      CHECK(facts[i].fixture_error <= 1e-5);
    }
  }
}
