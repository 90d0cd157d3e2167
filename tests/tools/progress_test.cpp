// What olm train shows on a terminal.
#include <stdlib.h>

#include <cstdlib>

#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

/// What a training wrote to a terminal of this kind as its standard error.
std::string drawn_on(const char* kind) {
  const TempFolder f;
  write_file(f / "text.txt", small_text());
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(terminal >= 0);
  REQUIRE(::grantpt(terminal) == 0);
  REQUIRE(::unlockpt(terminal) == 0);
  const int end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(end >= 0);
  std::string text;
  const auto read_on = [&] {
    char buffer[4096];
    for (ssize_t n; (n = ::read(terminal, buffer, sizeof buffer)) > 0;)
      text.append(buffer, size_t(n));
  };
  const char* before = std::getenv("TERM");
  const std::string kept = before ? before : "";
  ::setenv("TERM", kind, 1);
  const Result r = run_program(tiny_training(f / "text.txt", f / "run"),
                               {.error_stream = end, .watch = [&](pid_t) { read_on(); }});
  before ? ::setenv("TERM", kept.c_str(), 1) : ::unsetenv("TERM");
  read_on();
  ::close(end);
  ::close(terminal);
  CHECK(r.status == 0);
  CHECK(r.out.find("step 40/40") != std::string::npos);
  return text;
}

}  // namespace

TEST_SUITE("tools/progress") {
  TEST_CASE("a terminal gets a bar, a dumb one nothing that would have to be cleared") {
    const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0) {
      MESSAGE("skipped: this machine has no terminals to give");
      return;
    }
    ::close(terminal);
    const std::string bar = drawn_on("xterm");
    CHECK(bar.find("\x1b[K") != std::string::npos);
    CHECK(bar.find("40/40") != std::string::npos);
    CHECK(drawn_on("dumb").empty());
  }
}
