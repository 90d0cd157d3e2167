// The test program. OLM_TEST_TARGET=SSE4, AVX2 or AVX-512 makes all kernels run on that instruction
// set; status 77 says that the build or the machine lacks it. OLM_FIXTURES_PAGE=FILE writes
// docs/fixtures.md there, OLM_CUDA_PAGE=FILE docs/cuda.md, from what the tests that ran recorded.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include <olm/engine/file.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/op_errors.h>
#include <tests/support/targets.h>

namespace {

/// Writes a page to the file that an environment variable names, if it does.
bool write_page(const char* variable, std::string (*page)()) {
  const char* path = std::getenv(variable);
  if (!path) return true;
  try {
    olm::write_file(path, page());
    return true;
  } catch (const olm::Error& error) {
    std::fprintf(stderr, "%s: %s\n", variable, error.what());
    return false;
  }
}

}  // namespace

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
  if (!write_page("OLM_FIXTURES_PAGE", olm::test::fixtures_page) ||
      !write_page("OLM_CUDA_PAGE", olm::test::cuda_page))
    return 1;
  return status;
}
