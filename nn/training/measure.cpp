#include <unistd.h>

#include <algorithm>
#include <chrono>

#include <olm/engine/allocator.h>
#include <olm/engine/backend.h>
#include <olm/engine/file.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>
#include <olm/nn/training/step_metrics_internal.h>

namespace olm::nn {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

/// The seconds of a step without its update, on this rank.
double Trainer::time_micro_batches() {
  const auto start = Clock::now();
  run_micro_batches();
  synchronize(device_of(*model_));
  const double seconds = seconds_since(start);
  parallel_->zero_grad();
  return seconds;
}

Timing Trainer::time_all(double seconds) {
  dist::set_place("timing");
  Timing timing;
  std::vector<double> times;
  const Device device = device_of(*model_);
  reset_peak_memory(device);
  const auto begin = Clock::now();
  // The first one allocates, and is not counted where there are others. Rank 0's clock decides.
  const auto goes_on = [&] {
    if (times.size() == 1 && times[0] > seconds) return false;
    return times.size() < 2 || (times.size() < 50 && seconds_since(begin) < seconds);
  };
  do times.push_back(time_micro_batches());
  while (ranks::of_first_rank(comm_, goes_on) && !all_are_asked_to_stop());
  if (times.size() > 1) times.erase(times.begin());
  std::sort(times.begin(), times.end());
  timing.step_seconds = times[times.size() / 2];
  timing.peak_bytes = memory_stats(device).peak;
  time_evaluation(timing);
  time_sample(timing);
  return ranks::of_first_rank(comm_, [&] { return timing; });
}

Timing Trainer::measure(double seconds) {
  return ranks::or_fail(comm_, [&] { return time_all(seconds); });
}

void Trainer::time_evaluation(Timing& timing) {
  const int64_t context = loader_.options().context;
  if (options_.eval_every <= 0 || validation_.size() <= context) return;
  const int64_t part =
      std::min(validation_.size(), comm_.size() * std::max<int64_t>(16384, context) + 1);
  const EvalReport report = evaluate(
      *model_, validation_.slice(0, part), context, options_.dtype,
      [this] { return is_asked_to_stop(); }, true, options_.end_of_text, comm_);
  if (report.finished)
    timing.eval_seconds = report.seconds * double(validation_.size()) / double(report.tokens);
}

void Trainer::time_sample(Timing& timing) {
  constexpr int64_t kMinTokens = 32;
  const int64_t tokens = options_.sample.tokens;
  if (options_.sample_every <= 0 || tokens == 0 || all_are_asked_to_stop()) return;
  GenerateOptions few = options_.sample;
  few.tokens = std::min(tokens, kMinTokens);
  const auto start = Clock::now();
  const std::optional<std::vector<int32_t>> ids = draw_sample(few);
  if (ids)
    timing.sample_seconds =
        seconds_since(start) * double(tokens) / double(std::max<size_t>(1, ids->size()));
}

double Trainer::time_weights() {
  if (options_.folder.empty()) return 0;
  return ranks::or_fail(comm_, [&] {
    // A name under which the next checkpoint removes what is left of an ended process.
    const std::string folder = options_.folder + "/checkpoints";
    const auto process = ranks::of_first_rank(comm_, [&] {
      make_directories(folder);
      return ::getpid();
    });
    const std::string path = folder + "/timing.tmp-" + std::to_string(process);
    const auto start = Clock::now();
    save_weights(*model_, path, comm_);
    return ranks::of_first_rank(comm_, [&] {
      const double seconds = seconds_since(start);
      remove_all(path);
      return seconds;
    });
  });
}

}  // namespace olm::nn
