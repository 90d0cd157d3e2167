#include <algorithm>
#include <set>

#include <olm/nn/parallel/plan_memory_internal.h>

namespace olm::nn::parallel {
namespace {

constexpr double kF32 = 4;

/// Gradients of a parameter that lie there before and after that of each of n micro-batches.
struct Kept {
  double before = 0, after = 0;
};
std::vector<Kept> kept_gradients(int64_t n, bool deterministic) {
  std::vector<Kept> kept;
  double depth = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double additions = deterministic ? double(SumTree::additions_after(i, n)) : depth;
    kept.push_back({depth, depth + 1 - additions});
    depth = kept.back().after;
  }
  return kept;
}

/// Bytes of a bucket while it is under way, and what is left of it.
struct Flight {
  double flat = 0, messages = 0, part = 0;
  bool travels = false, copied = false;
};

Flight flight_of(const Bucket& b, const PlannedStep& s) {
  const int64_t ranks = b.expert ? s.replicas : s.ranks;
  const auto rank = size_t(b.expert ? s.replica : s.rank);
  if (ranks == 1) return {};
  const bool sharded = s.options.zero == 1, narrow = s.options.wire == bf16;
  const auto own = double((sharded ? b.counts : dist::even_counts(b.elements, int(ranks)))[rank]);
  const auto all = double(b.elements);
  const double wire = double(size_of(s.options.wire));
  return {.flat = all * kF32,
          .messages = (narrow ? all * wire : 0) + own * double(ranks - 1) * wire,
          .part = sharded ? own * kF32 : all * kF32,
          .travels = true,
          .copied = b.members.size() > 1};
}

/// Goes through a step and remembers when most was held.
class StepWalk {
 public:
  explicit StepWalk(const PlannedStep& s) : s_(s), all_(s.pass.gradient_bytes()) {
    for (const Bucket& b : s.buckets) {
      flights_.push_back(flight_of(b, s));
      missing_.push_back(0);
      bytes_.push_back(0);
      for (const Member& m : b.members) bucket_of_[m.parameter] = missing_.size() - 1;
    }
    for (const PassMemory::Arrival& a : s.pass.arrivals)
      if (!s.buckets.empty()) ++missing_[bucket_at(a)];
  }

  RankMemory run() {
    const std::vector<Kept> kept = kept_gradients(s_.micro_batches, s_.options.deterministic);
    for (size_t i = 0; i < kept.size(); ++i) {
      const bool last = i + 1 == kept.size() && !s_.buckets.empty();
      pass(kept[i], last);
    }
    hand_out();
    return most_;
  }

 private:
  size_t bucket_at(const PassMemory::Arrival& a) const {
    return bucket_of_.at(s_.parameters.at(a.key));
  }

  void note(double activations, double more = 0) {
    const double gradients = waiting_ + sums_;
    if (activations + gradients + flying_ + more <= most_.total()) return;
    most_ = {.gradients = std::min(gradients, all_),
             .kept_gradients = std::max(0.0, gradients - all_),
             .buckets = flying_ + more,
             .activations = activations};
  }

  void pass(const Kept& kept, bool last) {
    waiting_ = kept.before * all_;
    sums_ = 0;
    for (const PassMemory::Arrival& a : s_.pass.arrivals) {
      note(a.peak);
      waiting_ -= kept.before * a.bytes;
      sums_ += kept.after * a.bytes;
      if (last) complete(a);
    }
    note(s_.pass.rest);
  }

  /// Buckets leave in their order, once all their gradients are there.
  void complete(const PassMemory::Arrival& a) {
    const size_t b = bucket_at(a);
    bytes_[b] += a.bytes;
    --missing_[b];
    for (; launched_ < missing_.size() && missing_[launched_] == 0; ++launched_)
      launch(launched_, a.held);
  }

  void launch(size_t b, double activations) {
    const Flight& f = flights_[b];
    // Of an expert that computed for several ranks one sum is left.
    const double sum = double(s_.buckets[b].elements) * kF32;
    sums_ += sum - bytes_[b];
    if (!f.travels) return;
    if (f.copied) note(activations, f.flat);
    sums_ -= sum;
    flying_ += f.flat + f.messages;
    sums_ += f.part;
    if (s_.options.zero == 0) flying_ -= f.flat;  // the sums of all take its place
    note(activations);
    under_way_.push_back(b);
    if (int64_t(under_way_.size()) > s_.under_way) arrive();
  }

  void arrive() {
    const Flight& f = flights_[under_way_.front()];
    flying_ -= f.messages + (s_.options.zero == 0 ? 0 : f.flat);
    under_way_.erase(under_way_.begin());
  }

  /// Weights of all buckets are under way as soon as they are updated.
  void hand_out() {
    while (!under_way_.empty()) arrive();
    if (s_.options.zero == 0) return;
    double flats = 0;
    for (const Flight& f : flights_)
      if (f.copied) flats += f.flat;
    note(0, flats);
  }

  const PlannedStep& s_;
  const double all_;
  RankMemory most_;
  double waiting_ = 0, sums_ = 0, flying_ = 0;
  std::map<int64_t, size_t> bucket_of_;
  std::vector<Flight> flights_;
  std::vector<int64_t> missing_;
  std::vector<double> bytes_;
  std::vector<size_t> under_way_;
  size_t launched_ = 0;
};

}  // namespace

RankMemory most_memory(const PlannedStep& step) { return StepWalk(step).run(); }

}  // namespace olm::nn::parallel
