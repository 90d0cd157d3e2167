#include "tools/olm/job.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>

#include <olm/kernels/base/error.h>

namespace olm::tools {

namespace {

/// A message as one line that one may print: control characters in it, from a file or a command
/// line, would act on the terminal.
std::string printable(const char* message) {
  std::string out;
  for (const char* c = message; *c; ++c) out += uint8_t(*c) < 32 || *c == 127 ? '?' : *c;
  return out;
}

}  // namespace

void fill_standard_streams() {
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0; fd = ::open("/dev/null", O_RDWR)) {
    if (fd <= STDERR_FILENO) continue;
    ::close(fd);
    return;
  }
}

int run_job(const Job& job) {
  try {
    const int status = job.run();
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0,
            "standard output cannot be written");
    return status;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: out of memory\n", job.name.c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", job.name.c_str(), printable(e.what()).c_str());
  }
  return 1;
}

}  // namespace olm::tools
