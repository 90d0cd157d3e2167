// The test program. OLM_TEST_TARGET=SSE4, AVX2 or AVX-512 makes all kernels run on that instruction
// set; status 77 says that the build or the machine lacks it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include <olm/kernels/base/error.h>
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
  return doctest::Context(argc, argv).run();
}
