#pragma once
// A canary beside every sample: a few milliseconds of arithmetic that depend on nothing but the
// cores. On shared machines two virtual cores are now two real ones and now two halves of one; a
// sample taken between slow canaries says more about the neighbours than about the code.
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace olm::tools {

/// Runs body(t) for t in [0, threads) at the same time, each thread on a core of its own where
/// there are enough. Returns the seconds from the common start to the last end.
double run_pinned(int threads, const std::function<void(int)>& body);

/// GFLOP/s of f32 multiply-adds on registers alone, in the widest instructions of this CPU, with
/// `iterations` times ten of them on each thread.
double fma_gflops(int threads, int64_t iterations);

/// One canary, in GFLOP/s, for programs that load this file as a library.
extern "C" double olm_canary_gflops(int threads);

/// Says which samples count: those whose canaries before and after reached `limit`, which up to 1
/// is a fraction of the best canary of this run, above that GFLOP/s; 0 keeps all.
class Gate {
 public:
  Gate(int threads, double limit);
  /// A canary now, in GFLOP/s.
  double probe();
  double best() const { return best_; }
  double wanted() const { return limit_ <= 1 ? limit_ * best_ : limit_; }

 private:
  int threads_;
  double limit_, best_ = 0;
};

/// How long to go on: at least `least` samples and `budget` seconds; up to `patience` times the
/// budget while fewer than four samples pass the gate.
struct Series {
  int64_t least = 1;
  double budget = 0, patience = 1;
};

/// A measured value and its canaries, in GFLOP/s.
template <class T>
struct Sample {
  T value = {};
  double before = 0, after = 0;
  bool passes(double wanted) const { return before >= wanted && after >= wanted; }
};

/// The values of the samples that pass, or of all where fewer than three do.
template <class T>
struct Kept {
  std::vector<T> values = {};
  int64_t kept = 0, taken = 0;
};

template <class T>
int64_t count_passing(const std::vector<Sample<T>>& samples, double wanted) {
  int64_t n = 0;
  for (const auto& s : samples) n += s.passes(wanted);
  return n;
}

/// Calls take() for a series of samples with canaries between them.
template <class F>
auto sample_series(Gate& gate, const Series& how, F take) {
  using T = decltype(take());
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  std::vector<Sample<T>> samples;
  double before = gate.probe();
  do {
    Sample<T> s{.value = take(), .before = before, .after = gate.probe()};
    before = s.after;
    samples.push_back(std::move(s));
  } while (int64_t(samples.size()) < how.least || elapsed() < how.budget ||
           (count_passing(samples, gate.wanted()) < 4 && elapsed() < how.patience * how.budget));
  const int64_t passing = count_passing(samples, gate.wanted());
  Kept<T> kept{.kept = passing, .taken = int64_t(samples.size())};
  for (const auto& s : samples)
    if (passing < 3 || s.passes(gate.wanted())) kept.values.push_back(s.value);
  return kept;
}

}  // namespace olm::tools
