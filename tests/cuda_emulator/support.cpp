#include <tests/cuda_emulator/support.h>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace olm::cuda_emulator::test {

Ending run_in_child(void (*f)()) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (int stream : {STDOUT_FILENO, STDERR_FILENO}) dup2(ends[1], stream);
    for (int signal : {SIGSEGV, SIGABRT, SIGBUS}) std::signal(signal, SIG_DFL);  // not doctest's
    f();
    _exit(0);
  }
  close(ends[1]);
  Ending ending;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof(part))) > 0;)
    ending.output.append(part, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) ending.signal = WTERMSIG(status);
  if (WIFEXITED(status)) ending.status = WEXITSTATUS(status);
  return ending;
}

}  // namespace olm::cuda_emulator::test
