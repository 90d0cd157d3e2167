#include "tests/support/comm_cases.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include <olm/engine/backend.h>
#include <olm/engine/raw.h>

namespace olm::test {
namespace {

using dist::Comm;
using dist::Counts;
using dist::Sum;
using dist::Work;

thread_local Device device_of_cases = cpu;

/// Sizes with and without a remainder, below and above what travels or is added at once.
const std::vector<int64_t> kSizes = {0, 1, 2, 3, 7, 31, 4097, 20001};

/// A number of its own for each pair, of magnitudes so different that the order of a sum shows.
uint64_t mixed(int64_t a, int64_t b) {
  uint64_t x = uint64_t(a) * 0x9e3779b97f4a7c15u + uint64_t(b) * 0xbf58476d1ce4e5b9u + 1;
  x ^= x >> 31;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 29);
}

template <class T>
T value(int64_t term, int64_t i) {
  const uint64_t x = mixed(term, i);
  if constexpr (std::is_integral_v<T>) return T(x % 1000003) - T(500000);
  const double fraction = double(x >> 11) * 0x1p-53 - 0.5;
  return T(float(std::ldexp(fraction, int(x % 12))));
}

template <class T>
T plus(T a, T b) {
  if constexpr (std::is_arithmetic_v<T>) return a + b;
  return T(float(a) + float(b));
}

/// The sum of terms [begin, end) as the definition of SumTree has it.
template <class T>
T tree_sum(int64_t begin, int64_t end, const std::function<T(int64_t)>& term) {
  if (end - begin == 1) return term(begin);
  int64_t p = 1;
  while (2 * p < end - begin) p *= 2;
  return plus(tree_sum<T>(begin, begin + p, term), tree_sum<T>(begin + p, end, term));
}

template <class T>
void require_bits(const char* what, const Tensor& x, const std::vector<T>& wanted) {
  const Tensor got = raw::to(x, cpu);
  require(size_t(got.numel()) == wanted.size(), what, ": sizes differ");
  for (size_t i = 0; i < wanted.size(); ++i)
    require(std::memcmp(got.data<T>() + i, &wanted[i], sizeof(T)) == 0, what, ": element ", i,
            " of ", wanted.size(), " differs: wanted ", float(wanted[i]), ", got ",
            float(got.data<T>()[i]));
}

template <class T>
Tensor filled(int64_t n, const std::function<T(int64_t)>& f) {
  const Tensor x = empty({n}, {.dtype = dtype_of<T>});
  T* data = x.mutable_data<T>();
  for (int64_t i = 0; i < n; ++i) data[i] = f(i);
  return raw::to(x, device_of_cases);
}

template <class T>
Tensor unset(int64_t n) {
  return empty({n}, {.dtype = dtype_of<T>, .device = device_of_cases});
}

Tensor part_of(const Tensor& x, int64_t begin, int64_t n) {
  auto impl = std::make_shared<TensorImpl>(x.impl());
  impl->offset += begin;
  impl->shape = {n};
  impl->strides = {1};
  return Tensor(impl);
}

Counts odd_counts(int64_t n, int ranks) {  // uneven, some of them none
  Counts counts(ranks, 0);
  int64_t left = n;
  for (int r = 0; r + 1 < ranks; ++r) {
    counts[r] = r % 3 == 1 ? 0 : left / 2 + (left > 0);
    left -= counts[r];
  }
  counts[ranks - 1] = left;
  return counts;
}

int64_t begin_of(const Counts& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, int64_t(0));
}

/// A rank's node of a tree over `terms`, and the sum over all.
template <class T>
Tensor node_of(const Comm& comm, int64_t terms, int64_t n) {
  const SumTree::Node node = SumTree(terms).cut(comm.size())[comm.rank()];
  return filled<T>(n, [&](int64_t i) {
    // A node is a tree of its own: its terms count from 0.
    return tree_sum<T>(0, node.size(), [&](int64_t t) { return value<T>(node.begin + t, i); });
  });
}
template <class T>
std::vector<T> whole(int64_t terms, int64_t n) {
  std::vector<T> sums;
  for (int64_t i = 0; i < n; ++i)
    sums.push_back(tree_sum<T>(0, terms, [&](int64_t t) { return value<T>(t, i); }));
  return sums;
}

template <class T>
void all_reduce(const Comm& comm) {
  for (const int64_t n : kSizes)
    for (const int64_t terms : {int64_t(comm.size()), int64_t(3 * comm.size() + 1)}) {
      const Tensor x = node_of<T>(comm, terms, n);
      comm.all_reduce(x, {.tree = SumTree(terms)}).wait();
      require_bits("all_reduce", x, whole<T>(terms, n));
    }
  const Tensor x = node_of<T>(comm, comm.size(), 7);
  comm.all_reduce(x).wait();  // one term for each rank
  require_bits("all_reduce", x, whole<T>(comm.size(), 7));
}

template <class T>
void reduce_scatter(const Comm& comm) {
  for (const int64_t n : kSizes)
    for (const Counts& counts : {dist::even_counts(n, comm.size()), odd_counts(n, comm.size())}) {
      const int64_t begin = begin_of(counts, comm.rank()), own = counts[comm.rank()];
      const Tensor x = node_of<T>(comm, comm.size(), n);
      const Tensor copy = raw::to(x, cpu);
      const std::vector<T> before(copy.data<T>(), copy.data<T>() + n);
      const std::vector<T> all = whole<T>(comm.size(), n);
      const std::vector<T> wanted(all.begin() + begin, all.begin() + begin + own);
      const Tensor part = unset<T>(own);
      comm.reduce_scatter(x, counts, part).wait();
      require_bits("reduce_scatter", part, wanted);
      require_bits("reduce_scatter: x", x, before);
      const Tensor in_place = part_of(x, begin, own);
      comm.reduce_scatter(x, counts, in_place).wait();
      require_bits("reduce_scatter in place", in_place, wanted);
    }
}

template <class T>
void all_gather(const Comm& comm) {
  for (const int64_t n : kSizes)
    for (const Counts& counts : {dist::even_counts(n, comm.size()), odd_counts(n, comm.size())}) {
      const int64_t begin = begin_of(counts, comm.rank()), own = counts[comm.rank()];
      const Tensor part = filled<T>(own, [&](int64_t i) { return value<T>(1, begin + i); });
      const Tensor x = filled<T>(n, [](int64_t) { return T(0); });
      comm.all_gather(part, counts, x).wait();
      std::vector<T> wanted;
      for (int64_t i = 0; i < n; ++i) wanted.push_back(value<T>(1, i));
      require_bits("all_gather", x, wanted);
      const Tensor y = filled<T>(n, [](int64_t) { return T(0); });
      const Tensor place = part_of(y, begin, own);
      raw::copy_(place, filled<T>(own, [&](int64_t i) { return wanted[begin + i]; }));
      comm.all_gather(place, counts, y).wait();
      require_bits("all_gather in place", y, wanted);
    }
}

template <class T>
void all_to_all(const Comm& comm) {
  const int size = comm.size();
  for (const int64_t scale : {0, 1, 1000}) {
    // Rank a gives rank b scale · ((a + b + 1) mod 3) elements.
    const auto count = [&](int a, int b) { return scale * ((a + b + 1) % 3); };
    Counts sent, received;
    std::vector<T> wanted;
    for (int r = 0; r < size; ++r) {
      sent.push_back(count(comm.rank(), r));
      received.push_back(count(r, comm.rank()));
      for (int64_t i = 0; i < received[r]; ++i)
        wanted.push_back(value<T>(r * size + comm.rank(), i));
    }
    std::vector<T> given;
    for (int r = 0; r < size; ++r)
      for (int64_t i = 0; i < sent[r]; ++i) given.push_back(value<T>(comm.rank() * size + r, i));
    const Tensor x = filled<T>(given.size(), [&](int64_t i) { return given[i]; });
    const Tensor y = unset<T>(int64_t(wanted.size()));
    comm.all_to_all(x, sent, y, received).wait();
    require_bits("all_to_all", y, wanted);
  }
}

template <class T>
void broadcast(const Comm& comm) {
  for (const int64_t n : kSizes)
    for (int root = 0; root < comm.size(); ++root) {
      const Tensor x = filled<T>(n, [&](int64_t i) { return value<T>(comm.rank(), i); });
      comm.broadcast(x, root).wait();
      std::vector<T> wanted;
      for (int64_t i = 0; i < n; ++i) wanted.push_back(value<T>(root, i));
      require_bits("broadcast", x, wanted);
    }
}

/// Terms are rounded to bf16 on their way, the sum of what came is not.
void narrow_wire(const Comm& comm) {
  if (comm.size() == 1) return;  // nothing travels
  const auto term = [](int64_t t, int64_t i) { return float(bfloat16_t(value<float>(t, i))); };
  for (const int64_t n : kSizes) {
    std::vector<float> wanted;
    for (int64_t i = 0; i < n; ++i)
      wanted.push_back(tree_sum<float>(0, comm.size(), [&](int64_t t) { return term(t, i); }));
    const Tensor x = filled<float>(n, [&](int64_t i) { return value<float>(comm.rank(), i); });
    comm.all_reduce(x, {.wire = bf16}).wait();
    require_bits("all_reduce in bf16", x, wanted);
  }
}

/// In an order of the transport's choice: whole numbers have one sum.
template <class T>
void any_order(const Comm& comm) {
  for (const int64_t n : kSizes) {
    const Tensor x = filled<T>(n, [&](int64_t i) { return T(float((comm.rank() + i) % 8)); });
    comm.all_reduce(x, {.ordered = false}).wait();
    std::vector<T> wanted;
    for (int64_t i = 0; i < n; ++i) {
      int64_t sum = 0;
      for (int r = 0; r < comm.size(); ++r) sum += (r + i) % 8;
      wanted.push_back(T(float(sum)));
    }
    require_bits("all_reduce in any order", x, wanted);
  }
}

/// Many operations under way at once, ended in another order, some of them by nobody.
void overlap(const Comm& comm) {
  constexpr int kCount = 24;
  std::vector<Tensor> sums;
  std::vector<Work> works;
  for (int k = 0; k < kCount; ++k) {
    const int64_t n = kSizes[k % 8];
    const Tensor x = filled<float>(n, [&](int64_t i) { return value<float>(comm.rank(), i + k); });
    Work work = comm.all_reduce(x);
    if (k % 5 == 4) continue;  // dropped: it goes on, and its tensor lives on
    sums.push_back(x);
    works.push_back(work);
    if (k % 3 == 0) comm.barrier();
  }
  for (size_t k = works.size(); k-- > 0;) works[k].wait();
  for (int k = 0, at = 0; k < kCount; ++k) {
    if (k % 5 == 4) continue;
    std::vector<float> wanted;
    for (int64_t i = 0; i < kSizes[k % 8]; ++i)
      wanted.push_back(
          tree_sum<float>(0, comm.size(), [&](int64_t t) { return value<float>(t, i + k); }));
    require(works[at].done(), "overlap: an operation that was waited for is not done");
    require_bits("overlap", sums[at++], wanted);
  }
}

void bytes(const Comm& comm) {
  for (const int64_t n : {0, 1, 1015, 1016, 1017, 5000}) {
    const auto text = [&](int r) {  // of another length on each rank
      std::string t(n * (r % 3 + 1), 'a');
      for (size_t i = 0; i < t.size(); ++i) t[i] = char(mixed(r, int64_t(i)));
      return t;
    };
    const std::vector<std::string> all = comm.all_gather(text(comm.rank()));
    require(int(all.size()) == comm.size(), "all_gather of bytes: wanted those of all ranks");
    for (int r = 0; r < comm.size(); ++r)
      require(all[r] == text(r), "all_gather of bytes: those of rank ", r, " differ");
  }
}

/// Sums of `comm`'s ranks by their number in the world.
void require_sum(const Comm& comm, int64_t own, int64_t wanted) {
  const Tensor x = filled<int64_t>(5, [&](int64_t) { return own; });
  comm.all_reduce(x).wait();
  require_bits("all_reduce in a group", x, std::vector<int64_t>(5, wanted));
}

void groups(const Comm& comm) {
  const int size = comm.size(), rank = comm.rank();
  std::vector<int> even, odd, turned;
  for (int r = 0; r < size; ++r) (r % 2 ? odd : even).push_back(r);
  for (int r = size; r-- > 0;) turned.push_back(r);
  const std::vector<int>& mine = rank % 2 ? odd : even;
  const Comm half = comm.group(mine), all = comm.group(turned);
  require(half.size() == int(mine.size()) && half.rank() == rank / 2, "group: wrong place");
  require(all.size() == size && all.rank() == size - 1 - rank, "group: wrong turned place");
  const int64_t sum = std::accumulate(mine.begin(), mine.end(), int64_t(0));
  // Operations of several groups at once, each in its own order.
  const Tensor x = filled<int64_t>(4097, [&](int64_t) { return rank + 1; });
  const Work work = comm.all_reduce(x);
  require_sum(half, rank, sum);
  require_sum(all, rank, int64_t(size) * (size - 1) / 2);
  work.wait();
  require_bits("all_reduce", x, std::vector<int64_t>(4097, int64_t(size) * (size + 1) / 2));
  const Tensor root = filled<int64_t>(3, [&](int64_t) { return rank; });
  all.broadcast(root, 0).wait();
  require_bits("broadcast in a group", root, std::vector<int64_t>(3, size - 1));
  // A group of a group, on some ranks alone, and then one of all.
  if (rank % 2 == 0) require_sum(half.group({half.rank()}), rank, rank);
  require_sum(comm.group(turned), 1, size);
}

void bad_calls(const Comm& comm) {
  const auto throws = [](const std::string& wanted, const std::function<void()>& f) {
    std::string got = "nothing";
    try {
      f();
    } catch (const Error& e) {
      got = e.what();
    }
    require(got == wanted, "wanted \"", wanted, "\", got \"", got, "\"");
  };
  const Tensor x = zeros({6});
  const int size = comm.size();
  Counts counts(size, 0);
  counts[0] = 6;
  const std::string ranks = std::to_string(size), mine = std::to_string(comm.rank());
  throws("broadcast: wanted a rank below " + ranks + ", got " + ranks,
         [&] { comm.broadcast(x, size); });
  throws("all_gather: wanted counts of " + ranks + " ranks, got 0",
         [&] { comm.all_gather(x, {}, x); });
  counts[0] = 5;
  throws("reduce_scatter: counts of 5 elements do not cover a tensor of 6",
         [&] { comm.reduce_scatter(x, counts, x); });
  counts[0] = -1;
  throws("all_to_all: wanted counts of 0 or more, got -1",
         [&] { comm.all_to_all(x, counts, x, counts); });
  counts[0] = 0;
  counts[comm.rank()] = 6;
  throws("all_gather: wanted a part of 6 elements on rank " + mine + ", got 5",
         [&] { comm.all_gather(zeros({5}), counts, x); });
  if (size == 1) return;
  throws("all_reduce: wanted a tensor on cpu, got one on meta",
         [&] { comm.all_reduce(empty({3}, {.device = meta})); });
  throws("all_reduce: booleans have no sum",
         [&] { comm.all_reduce(zeros({3}, {.dtype = boolean})); });
  throws("all_reduce: values travel in their own dtype, or in bf16 for f32; got bf16 for f64",
         [&] { comm.all_reduce(zeros({3}, {.dtype = f64}), {.wire = bf16}); });
}

/// What travelled is counted.
void traffic(const Comm& comm) {
  const int64_t n = comm.size();
  if (n == 1) return;
  const Tensor x = filled<float>(1000 * n, [](int64_t) { return 0; });
  comm.all_reduce(x).wait();  // ranks find each other
  const dist::Traffic before = comm.traffic();
  comm.all_reduce(x).wait();
  comm.reduce_scatter(x, dist::even_counts(1000 * n, n), unset<float>(1000), {.wire = bf16}).wait();
  synchronize(device_of_cases);
  const dist::Traffic after = comm.traffic();
  require(after.operations - before.operations == 2, "traffic: wanted 2 operations");
  const int64_t bytes = (n - 1) * (4000 + 4000 + 2000);
  require(after.bytes_sent - before.bytes_sent == bytes, "traffic: wanted ", bytes, " bytes, got ",
          after.bytes_sent - before.bytes_sent);
  for (int i = 0; i < 30; ++i) comm.barrier();  // what is waited for may be done, not each time
  const bool waited = comm.traffic().waited_seconds > before.waited_seconds;
  require(after.seconds > before.seconds && (waited || device_of_cases.kind != DeviceKind::cpu),
          "traffic: wanted times");
}

}  // namespace

void set_case_device(Device device) { device_of_cases = device; }

const std::vector<CommCase>& comm_cases() {
  static const std::vector<CommCase> cases = {
      {"all_reduce f32", all_reduce<float>},
      {"all_reduce f64", all_reduce<double>},
      {"all_reduce bf16", all_reduce<bfloat16_t>},
      {"all_reduce i64", all_reduce<int64_t>},
      {"reduce_scatter f32", reduce_scatter<float>},
      {"reduce_scatter bf16", reduce_scatter<bfloat16_t>},
      {"all_gather f32", all_gather<float>},
      {"all_gather i64", all_gather<int64_t>},
      {"all_to_all f32", all_to_all<float>},
      {"all_to_all bf16", all_to_all<bfloat16_t>},
      {"broadcast f64", broadcast<double>},
      {"all_reduce f32 in bf16", narrow_wire},
      {"all_reduce f32 in any order", any_order<float>},
      {"all_reduce f64 in any order", any_order<double>},
      {"all_reduce bf16 in any order", any_order<bfloat16_t>},
      {"all_reduce i64 in any order", any_order<int64_t>},
      {"operations at once", overlap},
      {"bytes", bytes},
      {"groups", groups},
      {"numbers of groups", check_group_numbers},
      {"bad calls", bad_calls},
      {"traffic", traffic},
  };
  return cases;
}

}  // namespace olm::test
