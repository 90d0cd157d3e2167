#pragma once
// What `olm train` shows while it runs: a bar on a terminal, plain lines otherwise.
#include <chrono>
#include <cstdint>
#include <string>

namespace olm::tools {

class Progress {
 public:
  struct State {
    int64_t step = 0, total = 0;
    double loss = 0;
    double tokens_per_second = 0;
    double seconds_left = 0;
  };
  /// Draws on stderr's terminal if there is one; else writes a line now and then to stdout.
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const State& state);
  /// A line of its own on stdout; the bar goes below it.
  void line(const std::string& text);
  /// Removes the bar.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string bar(const State& state) const;
  bool terminal_ = false, drawn_ = false;
  Clock::time_point last_;
};

/// "step 500/2000  loss 1.8342  21.3k tokens/s  1:05 left".
std::string progress_text(const Progress::State& state);

}  // namespace olm::tools
