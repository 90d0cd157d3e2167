#include <tests/cuda_emulator/report.h>

#include <algorithm>
#include <cstring>

#include <tests/cuda_emulator/block.h>

namespace olm::cuda_emulator {
namespace {

struct Entry {
  const void* kernel;
  const char* kind;
  Report report;
};
// Never destroyed: kernels may run while static objects are.
std::vector<Entry>& entries = *new std::vector<Entry>;
std::string& failure = *new std::string;
int64_t total = 0;

std::string coordinates(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

}  // namespace

bool is_first_report(const char* kind) {
  const void* kernel = running.grid ? running.grid->kernel : nullptr;
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) {
    return e.kernel == kernel && std::strcmp(e.kind, kind) == 0;
  });
  if (found == entries.end()) return true;
  ++found->report.count;
  ++total;
  return false;
}

void add_report(const char* kind, const std::string& sentence) {
  std::string text;
  const void* kernel = running.grid ? running.grid->kernel : nullptr;
  if (kernel) text = "kernel " + function_name(kernel) + ", ";
  if (running.inside)
    text += "block " + coordinates(blockIdx) + ", thread " + coordinates(threadIdx) + ": ";
  text += sentence;
  entries.push_back({kernel, kind, {text, 1}});
  ++total;
  failure = text;
}

int64_t count_reports() { return total; }

void forget_reports() {
  entries.clear();
  failure.clear();
}

const std::string& last_failure() { return failure; }
void set_last_failure(std::string sentence) { failure = std::move(sentence); }

std::vector<Report> reports_so_far() {
  std::vector<Report> all;
  for (const Entry& e : entries) all.push_back(e.report);
  return all;
}

void ThreadRanges::add(int thread) {
  if (last_ == thread - 1 && first_ >= 0) {
    last_ = thread;
    return;
  }
  text_ = text();
  first_ = last_ = thread;
}

std::string ThreadRanges::text() const {
  if (first_ < 0) return text_;
  std::string all = text_.empty() ? "" : text_ + ", ";
  all += std::to_string(first_);
  if (last_ > first_) all += "-" + std::to_string(last_);
  return all;
}

}  // namespace olm::cuda_emulator
