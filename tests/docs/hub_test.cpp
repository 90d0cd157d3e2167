// docs/hub.md says how far models of other programs are from what those programs compute.
#include <doctest/doctest.h>

#include <cstdlib>

#include <olm/engine/file.h>
#include <tests/support/hub_page.h>
#include <tests/support/markdown.h>
#include <tests/support/parity.h>

using namespace olm;
using namespace olm::test;

namespace {

/// An error that rounding in f32 explains, or a word that is the same on both.
bool agrees(const std::string& listed, const std::string& now) {
  char *end = nullptr, *other = nullptr;
  const double a = std::strtod(listed.c_str(), &end), b = std::strtod(now.c_str(), &other);
  if (end == listed.c_str() || other == now.c_str()) return listed == now;
  return a <= 1e-5 && b <= 1e-5;
}

}  // namespace

TEST_SUITE("docs/hub") {
  TEST_CASE("the page has what is seen here") {
    const std::vector<HubCase> cases = run_hub_cases();
    const std::string now = hub_page(cases);
    if (const char* path = std::getenv("OLM_HUB_PAGE")) write_file(path, now);
    const std::string page = read_file(fixture("../../docs/hub.md"));
    const auto listed = table_rows(page), seen = table_rows(now);
    REQUIRE(listed.size() == seen.size());
    CHECK(cases.size() >= 18);
    for (size_t i = 0; i < listed.size(); ++i) {
      INFO(listed[i][0]);
      REQUIRE(listed[i].size() == seen[i].size());
      for (size_t column = 0; column < seen[i].size(); ++column)
        CHECK_MESSAGE(agrees(listed[i][column], seen[i][column]), listed[i][column], " for ",
                      seen[i][column]);
    }
    // What is no row of a table is the same to the letter.
    CHECK(page.substr(page.find("<!-- names -->")) == now.substr(now.find("<!-- names -->")));
  }
}
