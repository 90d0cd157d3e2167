#include <olm/nn/context.h>

#include <algorithm>

#include <olm/autograd/tape.h>

#include <olm/engine/raw.h>

namespace olm::nn {

namespace {

/// New memory of `rows` tokens for what is laid out like k [B,T,H,D].
Tensor room(const Tensor& k, int64_t rows) {
  return empty({k.size(0), rows, k.size(2), k.size(3)}, options_of(k));
}

/// Moves rows [begin, begin + count) of `from` to the front of `to`.
void move_rows(const Tensor& from, const Tensor& to, int64_t begin, int64_t count) {
  if (count == 0) return;
  const Tensor rows = raw::slice(from, 1, begin, begin + count);
  raw::copy_(raw::slice(to, 1, 0, count), from.is_same(to) ? raw::clone(rows) : rows);
}

void require_like(const Tensor& held, const Tensor& x) {
  bool fits = x.rank() == 4 && x.dtype() == held.dtype() && x.device() == held.device();
  for (const int64_t d : {0, 2, 3}) fits = fits && x.size(d) == held.size(d);
  require(fits, "KVCache: holds ", held.dtype(), " of ", held.shape(), ", got ", x.dtype(), " ",
          x.shape());
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
  // What is behind the committed tokens is left of a pass that did not end with advance().
  slot.held = std::min(slot.held, length_);
  const int64_t kept = window > 0 ? std::min(slot.held, window - 1) : slot.held;
  const int64_t rows =
      window > 0 ? std::min(capacity_, 2 * (window - 1) + std::max(added, window)) : capacity_;
  if (length_ == 0 && slot.k.defined() && slot.k.size(0) != k.size(0)) slot = Slot();
  if (!slot.k.defined()) slot = {.k = room(k, rows), .v = room(v, rows), .held = 0};
  require_like(slot.k, k);
  require_like(slot.v, v);
  if (slot.held + added > slot.k.size(1)) {
    const bool grows = kept + added > slot.k.size(1);
    const Slot fresh = grows ? Slot{.k = room(k, rows), .v = room(v, rows), .held = 0} : slot;
    move_rows(slot.k, fresh.k, slot.held - kept, kept);
    move_rows(slot.v, fresh.v, slot.held - kept, kept);
    slot = fresh;
    slot.held = kept;
  }
  const int64_t end = slot.held + added;
  raw::copy_(raw::slice(slot.k, 1, slot.held, end), k);
  raw::copy_(raw::slice(slot.v, 1, slot.held, end), v);
  const int64_t begin = slot.held - kept;
  slot.held = end;
  return {raw::slice(slot.k, 1, begin, end), raw::slice(slot.v, 1, begin, end)};
}

size_t KVCache::bytes() const {
  size_t total = 0;
  for (const Slot& slot : slots_)
    for (const Tensor* t : {&slot.k, &slot.v})
      if (t->defined()) total += size_t(t->numel()) * size_of(t->dtype());
  return total;
}

}  // namespace olm::nn
