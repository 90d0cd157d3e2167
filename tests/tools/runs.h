#pragma once
// What tests of `olm train` ask of the runs it leaves behind.
#include <string>
#include <vector>

#include <olm/nn/training.h>
#include <tests/tools/program.h>

namespace olm::test {

/// A small text in a file.
struct Corpus {
  TempFolder folder;
  std::string data = folder / "text.txt";
  Corpus() { write_file(data, small_text()); }
};

/// A column of metrics.jsonl.
inline std::vector<double> losses(const std::string& run, const char* name = "loss") {
  std::vector<double> result;
  for (const Json& line : nn::JsonLines::read(run + "/metrics.jsonl"))
    if (const Json* value = line.find(name)) result.push_back(value->as_double());
  return result;
}

inline void check_same_run(const std::string& a, const std::string& b) {
  CHECK(losses(a) == losses(b));
  CHECK(losses(a, "val_loss") == losses(b, "val_loss"));
  CHECK(losses(a, "grad_norm") == losses(b, "grad_norm"));
  CHECK(read_file(a + "/model.safetensors") == read_file(b + "/model.safetensors"));
  CHECK(read_file(a + "/samples.jsonl") == read_file(b + "/samples.jsonl"));
}

/// A training with samples that do not end: however late a signal comes, it is not done. Whoever
/// goes on with it sets --sample.tokens.
inline Args held_up(Args training) {
  training.push_back("--sample.tokens=10000000");
  return training;
}

/// Sends `signal` once a checkpoint of `step` is there.
inline RunOptions interrupt_at(const std::string& run, int64_t step, int signal) {
  return {.watch = [=, sent = false](pid_t child) mutable {
    if (sent || !file_exists(nn::Checkpoints(run).path(step) + "/state.json")) return;
    ::kill(child, signal);
    sent = true;
  }};
}

}  // namespace olm::test
