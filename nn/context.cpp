#include <olm/nn/context.h>

#include <algorithm>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/tape.h>

#include <olm/engine/raw.h>

namespace olm::nn {

namespace {

/// New memory of `rows` tokens for what is laid out like k [B,T,H,D].
Tensor room(const Tensor& k, int64_t rows) {
  return empty({k.size(0), rows, k.size(2), k.size(3)}, options_of(k));
}

void require_like(const Tensor& held, const Tensor& x) {
  bool fits = x.rank() == 4 && x.dtype() == held.dtype() && x.device() == held.device();
  for (const int64_t d : {0, 2, 3}) fits = fits && x.size(d) == held.size(d);
  require(fits, "KVCache: holds ", held.dtype(), " of ", held.shape(), " on ", held.device(),
          ", got ", x.dtype(), " ", x.shape(), " on ", x.device());
}

}  // namespace

std::pair<Tensor, Tensor> KVCache::append(const Tensor& k, const Tensor& v, int64_t window) {
  require(k.rank() == 4 && v.rank() == 4 && k.size(1) == v.size(1),
          "KVCache: wanted k and v [B,T,H,D], got ", k.shape(), " and ", v.shape());
  const int64_t added = k.size(1);
  require(length_ + added <= capacity_, "KVCache: ", length_ + added,
          " tokens do not fit its capacity ", capacity_);
  require(!grad_enabled() || !(requires_grad(k) || requires_grad(v)),
          "KVCache: keys and values in a cache pass no gradient; open a NoGrad first");
  if (next_ == slots_.size()) slots_.emplace_back();
  Slot& slot = slots_[next_++];
  // Tokens of a window stay in order and in one piece, since positions may lie in their order: what
  // is kept moves to the front at most once in window / 4 tokens, so 4 rows per token, where
  // attention reads a window of them. Memory does not grow with the length of the text.
  const int64_t rows =
      window > 0 ? std::min(capacity_, window - 1 + std::max(added, window / 4 + 1)) : capacity_;
  if (length_ == 0 && slot.k.defined() &&
      (slot.k.size(0) != k.size(0) || slot.k.device() != k.device()))
    slot = Slot();
  if (!slot.k.defined())
    slot = {.k = room(k, rows), .v = room(v, rows), .first = length_, .end = length_};
  require_like(slot.k, k);
  require_like(slot.v, v);
  require(slot.end >= length_, "KVCache: of ", length_, " tokens, ", length_ - slot.end,
          " were not appended to slot ", next_ - 1, "; every pass makes the same calls");
  // What is behind the committed tokens is left of a pass that did not end with advance().
  const int64_t held = length_ - slot.first;
  const int64_t kept = window > 0 ? std::min(held, window - 1) : held;
  if (held + added > slot.k.size(1))
    make_room(slot, kept, kept + added > slot.k.size(1) ? rows : 0);
  const int64_t at = length_ - slot.first, end = at + added;
  raw::copy_(raw::slice(slot.k, 1, at, end), k);
  raw::copy_(raw::slice(slot.v, 1, at, end), v);
  slot.end = length_ + added;
  return {raw::slice(slot.k, 1, at - kept, end), raw::slice(slot.v, 1, at - kept, end)};
}

void KVCache::make_room(Slot& slot, int64_t kept, int64_t rows) {
  const int64_t held = length_ - slot.first;
  const Tensor k = raw::clone(raw::slice(slot.k, 1, held - kept, held));
  const Tensor v = raw::clone(raw::slice(slot.v, 1, held - kept, held));
  Slot fresh = slot;
  if (rows > 0) fresh.k = room(k, rows), fresh.v = room(v, rows);
  raw::copy_(raw::slice(fresh.k, 1, 0, kept), k);
  raw::copy_(raw::slice(fresh.v, 1, 0, kept), v);
  fresh.first = length_ - kept;
  slot = fresh;
}

void KVCache::clear() {
  length_ = 0;
  next_ = 0;
  for (Slot& slot : slots_) slot.first = slot.end = 0;
}

size_t KVCache::bytes() const {
  size_t total = 0;
  for (const Slot& slot : slots_)
    for (const Tensor* t : {&slot.k, &slot.v})
      if (t->defined()) total += size_t(t->numel()) * size_of(t->dtype());
  return total;
}

const Tensor& ResidualStream::total() {
  if (delta.defined()) x = x + delta, delta = {};
  return x;
}

}  // namespace olm::nn
