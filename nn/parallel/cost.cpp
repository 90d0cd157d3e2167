#include <algorithm>

#include <olm/engine/raw_optim.h>
#include <olm/nn/parallel/impl_internal.h>

namespace olm::nn {

using namespace parallel;

namespace {

/// What a bucket takes on one rank.
struct BucketCost {
  int64_t sent = 0;   ///< bytes, per step
  size_t kept = 0;    ///< bytes of sums, until the update
  size_t moving = 0;  ///< bytes while it is under way
};

BucketCost cost_of(const Bucket& b, const dist::Comm& comm, const DataParallelOptions& o) {
  const bool shared = o.zero == 1;  // among owners, who hand out weights
  const DType dtype = acc_dtype(b.dtype), wire = dtype == f32 ? o.wire : dtype;
  const auto rank = size_t(comm.rank());
  const int64_t own = shared ? b.counts[rank] : dist::even_counts(b.elements, comm.size())[rank];
  const int64_t to_others = own * (comm.size() - 1);
  const size_t flat = size_t(b.elements) * size_of(dtype);
  const size_t narrow = wire == dtype ? 0 : size_t(b.elements) * size_of(wire);
  return {.sent = (b.elements - own) * int64_t(size_of(wire)) +
                  to_others * int64_t(size_of(shared ? b.dtype : dtype)),
          .kept = shared ? size_t(own) * size_of(dtype) : flat,
          .moving = (shared ? flat : 0) + narrow + size_t(to_others) * size_of(wire)};
}

}  // namespace

ParallelCost DataParallel::Impl::cost() const {
  ParallelCost cost{.moment_bytes = optimizer.state_bytes()};
  for (size_t p = 0; p < parameters_.size(); ++p) {
    const int64_t held = sums_->most_held(p, part.size(), !alone());
    cost.gradient_bytes +=
        size_t(held * parameters_[p].numel()) * size_of(acc_dtype(parameters_[p].dtype()));
  }
  if (alone()) return cost;
  std::vector<size_t> moving;
  size_t filling = 0;
  for (const Bucket& b : transfer_->buckets()) {
    if (!transfer_->travels(b)) continue;
    const BucketCost c = cost_of(b, transfer_->comm_of(b), options);
    ++cost.buckets;
    cost.bytes_sent += c.sent;
    cost.bucket_bytes += c.kept;
    moving.push_back(c.moving);
    filling = std::max(filling, size_t(b.elements) * size_of(acc_dtype(b.dtype)));
  }
  std::sort(moving.rbegin(), moving.rend());
  moving.resize(std::min(moving.size(), kUnderWay));
  for (const size_t bytes : moving) cost.bucket_bytes += bytes;
  cost.bucket_bytes += filling;
  cost.buckets_in_backward = in_backward_;
  StepNews news{.losses = std::vector<MicroBatchLoss>(size_t(part.size())), .present = trained_};
  for (const ParameterRange& r : written)
    news.sums.resize(news.sums.size() + size_t(raw::norm_blocks(r.end - r.begin)));
  const size_t bytes = news_bytes_ > 0 ? news_bytes_ : pack(news).size();
  cost.bytes_sent += gathered_bytes(bytes, comm.size());
  return cost;
}

}  // namespace olm::nn
