// The test program. OLM_TEST_TARGET=SSE4, AVX2 or AVX-512 makes all kernels run on that instruction
// set; status 77 says that the build or the machine lacks it. OLM_FIXTURES_PAGE=FILE writes
// docs/fixtures.md there, from what the tests that ran recorded.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include <olm/engine/file.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/targets.h>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  if (const char* target = std::getenv("OLM_TEST_TARGET")) try {
      if (!olm::test::force_target(target)) {
        std::printf("%s is not here: skipped\n", target);
        return kSkipped;
      }
    } catch (const olm::Error& error) {
      std::fprintf(stderr, "OLM_TEST_TARGET: %s\n", error.what());
      return 1;
    }
  const int status = doctest::Context(argc, argv).run();
  if (const char* page = std::getenv("OLM_FIXTURES_PAGE")) try {
      olm::write_file(page, olm::test::fixtures_page());
    } catch (const olm::Error& error) {
      std::fprintf(stderr, "OLM_FIXTURES_PAGE: %s\n", error.what());
      return 1;
    }
  return status;
}
