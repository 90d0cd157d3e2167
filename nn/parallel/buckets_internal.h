#pragma once
// Buckets: parameters whose gradients travel together, and who owns which of their elements.
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/optim.h>
#include <olm/nn/parallel.h>

namespace olm::nn::parallel {

/// What a rank has of a parameter, which decides with whom it shares it.
struct Member {
  int64_t parameter = 0;  ///< its number in the optimizer
  int64_t numel = 0;
  DType dtype = f32;
  bool trained = true;    ///< its gradients travel
  bool expert = false;    ///< shared with the replicas of the expert alone
  bool divisible = true;  ///< has several owners, each of some elements
};

/// Elements of some parameters, one behind the other, and how ranks share them.
struct Bucket {
  bool trained = true, expert = false;
  DType dtype = f32;
  std::vector<Member> members = {};
  int64_t elements = 0;
  dist::Counts counts = {};  ///< of elements that each rank owns, in the order of ranks
};

/// What the elements of a rank are in a bucket.
std::vector<ParameterRange> ranges_of(const Bucket& bucket, int rank);

/// Cuts members, in their order, into buckets of at most `bytes` of gradients, or one parameter,
/// and the elements of each among so many ranks, at blocks of kernels::kNormBlock, or at the ends
/// of those that are not divisible: such that each has an even part of all buckets up to any.
/// Frozen members come last.
std::vector<Bucket> make_buckets(const std::vector<Member>& members, double bytes, int ranks,
                                 int replicas);

/// One line for each bucket: ranks that agree have the same.
std::string describe(const std::vector<Bucket>& buckets);

}  // namespace olm::nn::parallel
