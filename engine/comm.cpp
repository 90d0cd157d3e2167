#include <olm/engine/comm.h>
#include <olm/engine/raw.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <sstream>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/comm/ordered_sum_internal.h>

namespace olm::dist {

using detail::Exchange;
using detail::Message;

namespace {

/// Bytes of a string that travel along with its length.
constexpr size_t kInline = 1016;
/// Elements from which a broadcast hands out parts, which all then gather.
constexpr int64_t kScattered = 16384;

/// The byte at which each rank's part begins, and at which the last one ends.
std::vector<size_t> offsets_of(const Counts& counts, DType dtype) {
  std::vector<size_t> offsets = {0};
  for (const int64_t n : counts) offsets.push_back(offsets.back() + size_t(n) * size_of(dtype));
  return offsets;
}

void check(const detail::Backend& b, const char* op, const Tensor& x) {
  require(x.is_contiguous(), op, ": wanted a contiguous tensor, got strides ", x.strides(),
          " for shape ", x.shape());
  b.require_reach(op, x);
}

/// The counts cover x, one for each rank.
void check(const detail::Backend& b, const char* op, const Tensor& x, const Counts& counts) {
  check(b, op, x);
  require(counts.size() == size_t(b.size()), op, ": wanted counts of ", b.size(), " ranks, got ",
          counts.size());
  int64_t total = 0;
  for (const int64_t n : counts) {
    require(n >= 0, op, ": wanted counts of 0 or more, got ", n);
    total += n;
  }
  require(total == x.numel(), op, ": counts of ", total, " elements do not cover a tensor of ",
          x.numel());
}

void check_part(const detail::Backend& b, const char* op, const Tensor& part, const Tensor& x,
                int64_t count) {
  check(b, op, part);
  require_same_dtype(op, part, x);
  require_same_device(op, part, x);
  require(part.numel() == count, op, ": wanted a part of ", count, " elements on rank ", b.rank(),
          ", got ", part.numel());
}

char* at(void* data, size_t offset) { return static_cast<char*>(data) + offset; }
/// What is sent is only read; messages of both directions are alike.
char* at(const void* data, size_t offset) { return at(const_cast<void*>(data), offset); }

bool overlap(const Tensor& x, const Tensor& y) {
  const auto bytes = [](const Tensor& t) { return size_t(t.numel()) * size_of(t.dtype()); };
  const char *a = at(x.data(), 0), *b = at(y.data(), 0);
  return a < b + bytes(y) && b < a + bytes(x);
}

/// Elements [begin, begin + n) of x, flat.
Tensor flat(const Tensor& x, int64_t begin, int64_t n) {
  return raw::as_strided(x, {n}, {1}, x.storage_offset() + begin);
}

/// Copies n elements, of which both sides may be the same.
void copy_part(const Tensor& to, int64_t to_begin, const Tensor& from, int64_t from_begin,
               int64_t n) {
  const size_t size = size_of(to.dtype());
  if (n == 0 || at(to.data(), to_begin * size) == at(from.data(), from_begin * size)) return;
  raw::copy_(flat(to, to_begin, n), flat(from, from_begin, n));
}

/// A message for each other rank that has a part.
std::vector<Message> messages(const detail::Backend& b, const void* data, const Counts& counts,
                              DType dtype) {
  const std::vector<size_t> offsets = offsets_of(counts, dtype);
  std::vector<Message> result;
  for (int r = 0; r < b.size(); ++r) {
    if (r == b.rank() || counts[r] == 0) continue;
    result.push_back({r, at(data, offsets[r]), offsets[r + 1] - offsets[r]});
  }
  return result;
}

/// The same message for each other rank.
std::vector<Message> to_others(const detail::Backend& b, const void* data, size_t bytes) {
  std::vector<Message> result;
  for (int r = 0; r < b.size(); ++r)
    if (r != b.rank()) result.push_back({r, at(data, 0), bytes});
  return result;
}

int64_t begin_of(const Counts& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, int64_t(0));
}

/// Each rank's part, which is in its place in x already, to all others.
Exchange gather_in_place(const detail::Backend& b, const char* op, const Tensor& x,
                         const Counts& counts) {
  Exchange e{.name = op, .kept = {x}};
  const size_t size = size_of(x.dtype());
  const int64_t own = counts[b.rank()];
  if (own > 0) e.sends = to_others(b, at(x.data(), begin_of(counts, b.rank()) * size), own * size);
  e.receives = messages(b, x.mutable_data(), counts, x.dtype());
  return e;
}

/// Each rank's part of x to that rank, which adds those of all into `out`.
Exchange scatter_sum(const detail::Backend& b, const char* op, const Tensor& x,
                     const Counts& counts, const Tensor& out, size_t out_offset, const Sum& sum) {
  const bool narrow = sum.wire == bf16 && x.dtype() == f32;
  require(narrow || sum.wire == x.dtype() || sum.wire == f32, op,
          ": values travel in their own dtype, or in bf16 for f32; got ", sum.wire, " for ",
          x.dtype());
  require(x.dtype() != boolean, op, ": booleans have no sum");
  const DType wire = narrow ? bf16 : x.dtype();
  const Tensor sent = narrow ? raw::cast(x, bf16) : x;
  const int64_t n = counts[b.rank()];
  const Tensor received = empty({n * (b.size() - 1)}, {.dtype = wire, .device = x.device()});
  Exchange e{.name = op, .kept = {x, sent, received, out}};
  e.sends = messages(b, sent.data(), counts, wire);
  detail::OrderedSum k{.dtype = x.dtype(),
                       .wire = wire,
                       .n = n,
                       .own = size_t(b.rank()),
                       .out = at(out.mutable_data(), out_offset)};
  const SumTree tree = sum.tree.terms() == 1 ? SumTree(b.size()) : sum.tree;
  k.additions = tree.additions(b.size());
  size_t offset = 0;
  for (int r = 0; r < b.size(); ++r) {
    if (r == b.rank()) {
      k.parts.push_back(at(sent.data(), offsets_of(counts, wire)[r]));
      continue;
    }
    k.parts.push_back(at(received.mutable_data(), offset));
    if (n > 0) e.receives.push_back({r, k.parts.back(), n * size_of(wire)});
    offset += n * size_of(wire);
  }
  e.then = [k, where = x.device().kind](const kernels::Stream& stream) {
    add_in_order(where, k, stream);
  };
  return e;
}

Work started(detail::Backend& b, Exchange e) { return Work(b.start(std::move(e))); }

}  // namespace

Counts even_counts(int64_t n, int ranks) {
  require(n >= 0 && ranks >= 1, "even_counts: wanted elements and ranks, got ", n, " and ", ranks);
  Counts counts(ranks, n / ranks);
  for (int64_t r = 0; r < n % ranks; ++r) ++counts[r];
  return counts;
}

void Work::wait() const {
  if (progress_) progress_->wait();
}

bool Work::done() const { return !progress_ || progress_->done(); }

Comm::Comm() : backend_(detail::World().backend()) {}
Comm::Comm(std::shared_ptr<detail::Backend> backend) : backend_(std::move(backend)) {
  require(backend_ != nullptr, "Comm: wanted a transport");
}
int Comm::rank() const { return backend_->rank(); }
int Comm::size() const { return backend_->size(); }
Traffic Comm::traffic() const { return backend_->traffic(); }

Work Comm::all_reduce(const Tensor& x, const Sum& sum) const {
  check(*backend_, "all_reduce", x);
  if (size() == 1 || x.numel() == 0) return {};
  if (!sum.ordered)
    if (auto progress = backend_->start_all_reduce(x)) return Work(std::move(progress));
  const Counts counts = even_counts(x.numel(), size());
  const size_t own = begin_of(counts, rank()) * size_of(x.dtype());
  Exchange e = scatter_sum(*backend_, "all_reduce", x, counts, x, own, sum);
  e.next = std::make_shared<Exchange>(gather_in_place(*backend_, "all_reduce", x, counts));
  return started(*backend_, std::move(e));
}

Work Comm::reduce_scatter(const Tensor& x, const Counts& counts, const Tensor& part,
                          const Sum& sum) const {
  check(*backend_, "reduce_scatter", x, counts);
  check_part(*backend_, "reduce_scatter", part, x, counts[rank()]);
  if (size() == 1) {
    copy_part(part, 0, x, 0, x.numel());
    return {};
  }
  return started(*backend_, scatter_sum(*backend_, "reduce_scatter", x, counts, part, 0, sum));
}

Work Comm::all_gather(const Tensor& part, const Counts& counts, const Tensor& x) const {
  check(*backend_, "all_gather", x, counts);
  check_part(*backend_, "all_gather", part, x, counts[rank()]);
  copy_part(x, begin_of(counts, rank()), part, 0, part.numel());
  if (size() == 1) return {};
  return started(*backend_, gather_in_place(*backend_, "all_gather", x, counts));
}

Work Comm::broadcast(const Tensor& x, int root) const {
  check(*backend_, "broadcast", x);
  require(root >= 0 && root < size(), "broadcast: wanted a rank below ", size(), ", got ", root);
  if (size() == 1 || x.numel() == 0) return {};
  const bool scattered = size() > 2 && x.numel() >= kScattered;
  Counts counts = even_counts(x.numel(), size());
  const size_t bytes = x.numel() * size_of(x.dtype());
  Exchange e{.name = "broadcast", .kept = {x}};
  if (rank() == root) {
    e.sends = scattered ? messages(*backend_, x.data(), counts, x.dtype())
                        : to_others(*backend_, x.data(), bytes);
  } else {
    const size_t begin = scattered ? begin_of(counts, rank()) * size_of(x.dtype()) : 0;
    const size_t n = scattered ? counts[rank()] * size_of(x.dtype()) : bytes;
    e.receives.push_back({root, at(x.mutable_data(), begin), n});
  }
  if (scattered) {
    Exchange gather = gather_in_place(*backend_, "broadcast", x, counts);
    // The root has all; what it holds as its own part it sends as the others do theirs.
    if (rank() == root) gather.receives.clear();
    std::erase_if(gather.sends, [&](const Message& m) { return m.peer == root; });
    e.next = std::make_shared<Exchange>(std::move(gather));
  }
  return started(*backend_, std::move(e));
}

Work Comm::all_to_all(const Tensor& x, const Counts& sent, const Tensor& y,
                      const Counts& received) const {
  check(*backend_, "all_to_all", x, sent);
  check(*backend_, "all_to_all", y, received);
  require_same_dtype("all_to_all", y, x);
  require_same_device("all_to_all", y, x);
  require(sent[rank()] == received[rank()], "all_to_all: rank ", rank(), " sends itself ",
          sent[rank()], " elements and wants ", received[rank()]);
  require(!overlap(x, y), "all_to_all: what comes would be written over what is sent");
  copy_part(y, begin_of(received, rank()), x, begin_of(sent, rank()), sent[rank()]);
  if (size() == 1) return {};
  Exchange e{.name = "all_to_all", .kept = {x, y}};
  e.sends = messages(*backend_, x.data(), sent, x.dtype());
  e.receives = messages(*backend_, y.mutable_data(), received, y.dtype());
  return started(*backend_, std::move(e));
}

void Comm::barrier() const {
  if (size() == 1) return;
  const std::shared_ptr<detail::Backend> own = backend_->host();
  detail::Backend& b = own ? *own : *backend_;
  const Tensor bytes = zeros({b.size()}, {.dtype = boolean});
  // From each to each, so that whoever waits knows for whom.
  Exchange e{.name = "barrier", .kept = {bytes}};
  e.sends = to_others(b, at(bytes.data(), size_t(rank())), 1);
  e.receives = messages(b, bytes.mutable_data(), Counts(size_t(b.size()), 1), boolean);
  started(b, std::move(e)).wait();
}

std::vector<std::string> Comm::all_gather(const std::string& bytes) const {
  std::vector<std::string> all(size());
  all[rank()] = bytes;
  if (size() == 1) return all;
  const std::shared_ptr<detail::Backend> own = backend_->host();
  const Comm host(own ? own : backend_);
  // First the lengths, with what of the bytes fits; then the others.
  constexpr size_t kRow = sizeof(uint64_t) + kInline;
  const Tensor heads = zeros({size(), int64_t(kRow)}, {.dtype = boolean});
  char* head = at(heads.mutable_data(), rank() * kRow);
  const uint64_t length = bytes.size();
  std::memcpy(head, &length, sizeof length);
  std::memcpy(head + sizeof length, bytes.data(), std::min(bytes.size(), kInline));
  const Counts even(size(), kRow);
  host.all_gather(flat(heads, rank() * kRow, kRow), even, heads).wait();
  Counts rest(size());
  for (int r = 0; r < size(); ++r) {
    uint64_t n = 0;
    const char* row = at(heads.data(), r * kRow);
    std::memcpy(&n, row, sizeof n);
    all[r].assign(row + sizeof n, std::min(size_t(n), kInline));
    rest[r] = int64_t(n - std::min(size_t(n), kInline));
  }
  const int64_t total = std::accumulate(rest.begin(), rest.end(), int64_t(0));
  if (total > 0) {
    const Tensor tails = empty({total}, {.dtype = boolean});
    const int64_t begin = begin_of(rest, rank()), n = rest[rank()];
    if (n > 0) std::memcpy(at(tails.mutable_data(), begin), bytes.data() + kInline, n);
    host.all_gather(flat(tails, begin, n), rest, tails).wait();
    for (int r = 0; r < size(); ++r) all[r].append(at(tails.data(), begin_of(rest, r)), rest[r]);
  }
  all[rank()] = bytes;
  return all;
}

Comm Comm::group(const std::vector<int>& ranks) const {
  std::string mine;
  for (const int64_t used : backend_->used_numbers()) mine += std::to_string(used) + " ";
  mine += ":";
  for (const int r : ranks) mine += " " + std::to_string(r);
  const auto list_of = [](const std::string& text) { return text.substr(text.find(':')); };
  const std::vector<std::string> all = all_gather(mine);
  std::set<int64_t> taken;
  for (const std::string& text : all) {
    std::istringstream in(text);
    for (int64_t used = 0; in >> used;) taken.insert(used);
  }
  int64_t number = 0;
  while (taken.count(number) > 0) ++number;
  require(std::count(ranks.begin(), ranks.end(), rank()) == 1, "group: wanted rank ", rank(),
          " once in its list of ranks", list_of(mine));
  for (const int r : ranks) {
    require(r >= 0 && r < size() && std::count(ranks.begin(), ranks.end(), r) == 1,
            "group: wanted ranks below ", size(), ", each once, got", list_of(mine));
    require(list_of(all[r]) == list_of(mine), "group: rank ", rank(), " wants the ranks",
            list_of(mine).substr(1), " and rank ", r, list_of(all[r]).substr(1));
  }
  return Comm(backend_->group(ranks, number));
}

}  // namespace olm::dist
