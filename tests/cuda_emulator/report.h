#pragma once
// Defects that kernels show, in sentences.
#include <cstdint>
#include <string>
#include <utility>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/emulator.h>

namespace olm::cuda_emulator {

/// True for the first report of this kind, a string literal, by the running kernel; else it is
/// counted.
bool is_first_report(const char* kind);
/// Adds a report; the sentence begins with the kernel, and with block and thread where one runs.
void add_report(const char* kind, const std::string& sentence);
/// Adds a report of which `sentence()` makes the text, if it is the first of its kind.
template <class F>
void report(const char* kind, F&& sentence) {
  const Pause pause;
  if (is_first_report(kind)) add_report(kind, std::forward<F>(sentence)());
}
/// Reports and ends the block.
template <class F>
[[noreturn]] void fail_block(const char* kind, F&& sentence) {
  report(kind, std::forward<F>(sentence));
  abandon_block();
}

/// All reports so far, each count included.
int64_t count_reports();
std::vector<Report> reports_so_far();
void forget_reports();

/// What the text of a launch failure ends with, and its replacement.
const std::string& last_failure();
void set_last_failure(std::string sentence);

/// The name of a function of this program, as it is written in the source where that can be found.
std::string function_name(const void* function);

/// Writes a set of threads as "0-15, 31".
class ThreadRanges {
 public:
  void add(int thread);
  std::string text() const;

 private:
  std::string text_;
  int first_ = -1, last_ = -1;
};

}  // namespace olm::cuda_emulator
