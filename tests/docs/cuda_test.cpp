// docs/cuda.md has every case of the op suites, in every dtype, forward and backward.
#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <set>

#include <olm/engine/file.h>
#include <tests/support/markdown.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("docs/cuda") {
  TEST_CASE("the table names every case once and has no empty cell") {
    std::set<std::string> listed;
    for (const std::vector<std::string>& row :
         table_rows(read_file(std::string(OLM_FIXTURES) + "/../../docs/cuda.md"))) {
      INFO(row[0]);
      REQUIRE(row.size() == 8);
      CHECK(listed.insert(row[0]).second);
      for (size_t i = 2; i < row.size(); ++i) {
        char* end = nullptr;
        const double error = std::strtod(row[i].c_str(), &end);
        const bool is_number = end != row[i].c_str() && *end == 0;
        CHECK_MESSAGE((is_number ? error < 0.05 : i % 2 == 1 && row[i] == "none"), row[i]);
      }
    }
    std::set<std::string> cases;
    for (const OpSuite& suite : op_suites())
      for (const OpCase& c : suite.cases()) cases.insert("`" + c.name + "`");
    CHECK(listed == cases);
  }

  TEST_CASE("a case has one suite") {
    std::map<std::string, std::string> suite_of;
    for (const OpSuite& suite : op_suites())
      for (const OpCase& c : suite.cases()) {
        INFO(c.name);
        CHECK(suite_of.try_emplace(c.name, suite.name).first->second == suite.name);
      }
  }
}
