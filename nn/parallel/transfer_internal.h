#pragma once
// Gradients of buckets on their way to their owners, and weights on their way back.
#include <deque>
#include <utility>
#include <vector>

#include <olm/nn/parallel/buckets_internal.h>

namespace olm::nn::parallel {

/// Buckets that may be under way at once: the memory of messages is theirs.
inline constexpr size_t kUnderWay = 4;

/// A rank's buckets: takes its sums of gradients, gives those of all ranks.
class Transfer {
 public:
  /// `experts` is among the ranks that keep the same experts as this one.
  Transfer(std::vector<Bucket> buckets, Tensors parameters, dist::Comm comm, dist::Comm experts,
           const DataParallelOptions& options);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  const dist::Comm& comm_of(const Bucket& bucket) const { return bucket.expert ? experts_ : comm_; }
  /// True where its gradients travel.
  bool travels(const Bucket& bucket) const { return bucket.trained && comm_of(bucket).size() > 1; }
  /// The elements that this rank owns, bucket after bucket, and of those the first of a bucket.
  const std::vector<ParameterRange>& owned() const { return owned_; }
  size_t first_owned(size_t bucket) const { return first_owned_[bucket]; }

  /// Takes the sum of this rank's gradients of a parameter, which may be none. Buckets leave in
  /// their order, as soon as they are complete.
  void take(int64_t parameter, Tensor sum);
  /// While off, buckets leave without waiting for any, however many are under way: for a backward
  /// pass that itself waits for other ranks, which may have none to send before it ends.
  void set_waiting(bool waiting) { waiting_ = waiting; }
  /// Buckets that left since clear().
  int64_t departed() const { return departed_; }
  /// Waits for a bucket's sums over all ranks, and returns those of the elements that this rank
  /// owns, range by range; without ranks to share with, undefined where there was no gradient.
  Tensors owned_sums(size_t bucket);
  /// After owned_sums(), in a transfer that hands sums to all: those of each member.
  Tensors whole_sums(size_t bucket);
  /// Begins to give owners' elements of a bucket's parameters to all, and ends it.
  void hand_out(size_t bucket);
  void finish_hand_out(size_t bucket);
  /// Forgets the sums of a step.
  void clear();

 private:
  /// What is under way for a bucket.
  struct State {
    Tensors sums = {};  // of this rank, by member
    size_t missing = 0;
    bool given = false;
    Tensor flat = {}, part = {};
    dist::Work work = {};
  };
  void launch(size_t bucket);
  Tensor flat_gradients(const Bucket& bucket, State& state) const;
  void release(size_t most_left);
  int64_t begin_of_own(const Bucket& bucket) const;

  std::vector<Bucket> buckets_;
  Tensors parameters_;
  std::vector<State> states_;
  dist::Comm comm_, experts_;
  DataParallelOptions options_;
  std::vector<ParameterRange> owned_;
  std::vector<size_t> first_owned_;
  std::vector<std::pair<size_t, size_t>> place_;  // of each parameter: its bucket and member
  size_t launched_ = 0;
  bool has_experts_ = false;
  std::deque<size_t> under_way_;
  bool waiting_ = true;
  int64_t departed_ = 0;
};

}  // namespace olm::nn::parallel
