#include <algorithm>
#include <utility>

#include <olm/engine/random.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/philox.h>
#include <olm/nn/data.h>

namespace olm::nn {

namespace {

/// Number `i` of a stream of integers in [0, range).
int64_t random_below(uint64_t seed, uint64_t i, int64_t range) {
  const kernels::Philox4 words = kernels::philox(seed, i);
  const uint64_t word = uint64_t(words.v[1]) << 32 | words.v[0];
  return int64_t((unsigned __int128)word * uint64_t(range) >> 64);
}

/// Where `i` goes in a random order of [0, n): a four-round Feistel network over the next power of
/// four, walked until it lands below n. No table is kept.
int64_t permuted(uint64_t seed, int64_t i, int64_t n) {
  int half = 1;
  while (half < 31 && int64_t(1) << (2 * half) < n) ++half;
  const uint64_t mask = (uint64_t(1) << half) - 1;
  uint64_t x = uint64_t(i);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = kernels::philox(seed, round << 32 | right).v[0] & mask;
      left = std::exchange(right, left ^ mixed);
    }
    x = left << half | right;
  } while (x >= uint64_t(n));
  return int64_t(x);
}

}  // namespace

Loader::Loader(TokenDataset dataset, LoaderOptions options)
    : dataset_(std::move(dataset)), options_(options), seed_(derive_seed(options.seed, "loader")) {
  const int64_t batch = options_.batch, context = options_.context, size = dataset_.size();
  require(batch >= 1 && context >= 1 && options_.steps >= 0, "loader: batch ", batch, ", context ",
          context, " and steps ", options_.steps, ", at least 1, 1 and 0 were wanted");
  require(size > context, "loader: ", dataset_.describe(), " has ", size, " tokens, a context of ",
          context, " needs at least ", context + 1);
  windows_ = (size - 1) / context;
  starts_ = size - context;
  limit_ = options_.steps;
  if (limit_ == 0 && !options_.shuffle) limit_ = kernels::ceil_div(windows_, batch);
}

void Loader::set_position(int64_t position) {
  require(position >= 0, "loader: position ", position, ", at least 0 was wanted");
  position_ = position;
}

Json Loader::state() const {
  Json state;
  state["position"] = position_;
  state["seed"] = options_.seed;
  state["batch"] = options_.batch;
  state["context"] = options_.context;
  state["shuffle"] = options_.shuffle;
  state["replacement"] = options_.replacement;
  state["tokens"] = dataset_.size();
  state["starts"] = starts_;
  return state;
}

void Loader::set_state(const Json& state) {
  Loader other = *this;
  const int64_t all = dataset_.size() - options_.context, but_one = std::max<int64_t>(1, all - 1);
  Json given = state;
  if (!given.contains("starts")) given["starts"] = but_one;
  other.starts_ = given.at("starts") == Json(but_one) ? but_one : all;
  const Json mine = other.state();
  for (const auto& [key, value] : mine.members())
    require(key == "position" || given.at(key) == value, "loader: the state is for ", key, " ",
            given.at(key).dump(), ", this loader has ", value.dump());
  other.set_position(given.at("position").as_int());
  *this = std::move(other);
}

int64_t Loader::window_start(int64_t number) const {
  if (options_.shuffle && options_.replacement)
    return random_below(seed_, uint64_t(number), starts_);
  const int64_t in_epoch = number % windows_;
  if (!options_.shuffle) return in_epoch * options_.context;
  const auto epoch = uint64_t(number / windows_);
  return permuted(seed_ + epoch * 0x9e3779b97f4a7c15u, in_epoch, windows_) * options_.context;
}

Batch Loader::at(int64_t position) const {
  require(position >= 0 && (limit_ == 0 || position < limit_), "loader: all ", limit_,
          " batches were given, there is no number ", position);
  const int64_t context = options_.context, first = position * options_.batch;
  int64_t rows = options_.batch;
  if (!options_.shuffle && options_.steps == 0) rows = std::min(rows, windows_ - first);
  Batch batch{empty({rows, context}, {.dtype = i64}), empty({rows, context}, {.dtype = i64}),
              position};
  auto* inputs = batch.inputs.mutable_data<int64_t>();
  auto* targets = batch.targets.mutable_data<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = window_start(first + row);
    dataset_.read(start, context, inputs + row * context);
    dataset_.read(start + 1, context, targets + row * context);
  }
  return batch;
}

Batch Loader::next() {
  Batch batch = at(position_);
  ++position_;
  return batch;
}

}  // namespace olm::nn
