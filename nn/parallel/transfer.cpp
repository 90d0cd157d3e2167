#include <olm/nn/parallel/transfer_internal.h>

#include <numeric>

#include <olm/engine/raw.h>
#include <olm/nn/parallel/local_sums_internal.h>

namespace olm::nn::parallel {
namespace {

Tensor flat_view(const Tensor& x) { return raw::view(x, {x.numel()}); }

}  // namespace

Transfer::Transfer(std::vector<Bucket> buckets, Tensors parameters, dist::Comm comm,
                   dist::Comm experts, const DataParallelOptions& options)
    : buckets_(std::move(buckets)),
      parameters_(std::move(parameters)),
      comm_(std::move(comm)),
      experts_(std::move(experts)),
      options_(options) {
  for (size_t b = 0; b < buckets_.size(); ++b) {
    has_experts_ = has_experts_ || buckets_[b].expert;
    first_owned_.push_back(owned_.size());
    for (const ParameterRange& r : ranges_of(buckets_[b], comm_of(buckets_[b]).rank()))
      owned_.push_back(r);
    for (size_t m = 0; m < buckets_[b].members.size(); ++m) {
      const auto p = size_t(buckets_[b].members[m].parameter);
      if (place_.size() <= p) place_.resize(p + 1);
      place_[p] = {b, m};
    }
  }
  first_owned_.push_back(owned_.size());
  clear();
}

void Transfer::clear() {
  states_.assign(buckets_.size(), {});
  for (size_t b = 0; b < buckets_.size(); ++b) {
    states_[b].sums.resize(buckets_[b].members.size());
    states_[b].missing = buckets_[b].trained ? buckets_[b].members.size() : 0;
  }
  launched_ = 0;
  under_way_.clear();
  waiting_ = true;
  departed_ = 0;
}

int64_t Transfer::begin_of_own(const Bucket& bucket) const {
  return std::accumulate(bucket.counts.begin(), bucket.counts.begin() + comm_of(bucket).rank(),
                         int64_t(0));
}

void Transfer::take(int64_t parameter, Tensor sum) {
  const auto [b, m] = place_[size_t(parameter)];
  states_[b].sums[m] = std::move(sum);
  --states_[b].missing;
  while (launched_ < buckets_.size() && states_[launched_].missing == 0) launch(launched_++);
  release(kUnderWay);
}

/// All gradients of a bucket, one behind the other. Those that are absent are -0, which added to
/// anything leaves its bits.
Tensor Transfer::flat_gradients(const Bucket& bucket, State& state) const {
  const DType dtype = acc_dtype(bucket.dtype);
  if (state.sums.size() == 1 && state.sums[0].defined() && state.sums[0].dtype() == dtype) {
    const Tensor sum = raw::contiguous(std::exchange(state.sums[0], Tensor()));
    // Without ZeRO the sum over ranks takes its place, and functions of on_grad() may have kept it.
    return flat_view(options_.zero == 0 && is_shared(sum) ? raw::clone(sum) : sum);
  }
  const Device device = parameters_[size_t(bucket.members[0].parameter)].device();
  const Tensor flat = empty({bucket.elements}, {.dtype = dtype, .device = device});
  int64_t at = 0;
  for (size_t m = 0; m < state.sums.size(); ++m) {
    const int64_t n = bucket.members[m].numel;
    const Tensor place = raw::slice(flat, 0, at, at + n);
    if (state.sums[m].defined())
      raw::copy_(raw::view(place, state.sums[m].shape()), state.sums[m]);
    else
      raw::fill_(place, -0.0);
    state.sums[m] = {};
    at += n;
  }
  return flat;
}

void Transfer::launch(size_t b) {
  const Bucket& bucket = buckets_[b];
  State& state = states_[b];
  if (!travels(bucket)) return;
  ++departed_;
  release(kUnderWay - 1);
  under_way_.push_back(b);
  const dist::Comm& comm = comm_of(bucket);
  state.flat = flat_gradients(bucket, state);
  const bool narrow = options_.wire == bf16 && state.flat.dtype() == f32;
  const dist::Sum sum{.tree = SumTree(options_.micro_batches),
                      .ordered = options_.deterministic,
                      .wire = narrow ? bf16 : f32};
  if (options_.zero == 0) {
    state.work = comm.all_reduce(state.flat, sum);
    return;
  }
  state.part = empty({bucket.counts[size_t(comm.rank())]}, options_of(state.flat));
  state.work = comm.reduce_scatter(state.flat, bucket.counts, state.part, sum);
  state.flat = {};
}

/// Waits until no more than so many buckets are under way, and frees the memory of those that have
/// arrived: where ranks compute faster than they send, waiting now or at the end is the same. Not
/// where experts are spread: others may wait in backward for rows of this rank.
void Transfer::release(size_t most_left) {
  if (!waiting_) most_left = under_way_.size();
  while (!under_way_.empty()) {
    dist::Work& work = states_[under_way_.front()].work;
    const bool free_to_wait = most_left == 0 || !has_experts_;
    if ((under_way_.size() <= most_left || !free_to_wait) && !work.done()) return;
    work.wait();
    work = {};
    under_way_.pop_front();
  }
}

Tensors Transfer::owned_sums(size_t b) {
  const Bucket& bucket = buckets_[b];
  State& state = states_[b];
  release(0);
  if (options_.zero == 0 && state.flat.defined())
    state.part = raw::slice(state.flat, 0, begin_of_own(bucket),
                            begin_of_own(bucket) + bucket.counts[size_t(comm_of(bucket).rank())]);
  Tensors sums;
  int64_t at = 0;
  for (size_t i = first_owned_[b]; i < first_owned_[b + 1]; ++i) {
    const int64_t n = owned_[i].end - owned_[i].begin;
    if (travels(bucket))
      sums.push_back(raw::slice(state.part, 0, at, at + n));
    else  // all of each member is owned, in their order
      sums.push_back(bucket.trained ? state.sums[i - first_owned_[b]] : Tensor());
    at += n;
  }
  return sums;
}

Tensors Transfer::whole_sums(size_t b) {
  const Bucket& bucket = buckets_[b];
  const State& state = states_[b];
  if (!travels(bucket)) return state.sums;
  Tensors sums;
  int64_t at = 0;
  for (const Member& m : bucket.members) {
    sums.push_back(raw::slice(state.flat, 0, at, at + m.numel));
    at += m.numel;
  }
  return sums;
}

void Transfer::hand_out(size_t b) {
  const Bucket& bucket = buckets_[b];
  State& state = states_[b];
  if (!travels(bucket)) return;
  const dist::Comm& comm = comm_of(bucket);
  const int64_t begin = begin_of_own(bucket), n = bucket.counts[size_t(comm.rank())];
  const Tensor& first = parameters_[size_t(bucket.members[0].parameter)];
  state = {};
  state.given = true;
  if (bucket.members.size() == 1 && first.is_contiguous()) {
    const Tensor x = flat_view(first);
    state.work = comm.all_gather(raw::slice(x, 0, begin, begin + n), bucket.counts, x);
    return;
  }
  state.flat = empty({bucket.elements}, options_of(first));
  int64_t at = begin;
  for (size_t i = first_owned_[b]; i < first_owned_[b + 1]; ++i) {
    const ParameterRange& r = owned_[i];
    const Tensor whole = raw::reshape(parameters_[size_t(r.parameter)], {-1});
    raw::copy_(raw::slice(state.flat, 0, at, at + r.end - r.begin),
               raw::slice(whole, 0, r.begin, r.end));
    at += r.end - r.begin;
  }
  state.work =
      comm.all_gather(raw::slice(state.flat, 0, begin, begin + n), bucket.counts, state.flat);
}

void Transfer::finish_hand_out(size_t b) {
  const Bucket& bucket = buckets_[b];
  State& state = states_[b];
  if (!state.given) return;
  state.work.wait();
  const Tensor flat = std::exchange(state, {}).flat;
  if (!flat.defined()) return;
  int64_t at = 0;
  for (const Member& m : bucket.members) {
    const Tensor& p = parameters_[size_t(m.parameter)];
    raw::copy_(p, raw::view(raw::slice(flat, 0, at, at + m.numel), p.shape()));
    at += m.numel;
  }
}

}  // namespace olm::nn::parallel
