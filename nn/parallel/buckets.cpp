#include <olm/nn/parallel/buckets_internal.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace olm::nn::parallel {
namespace {

/// Places at which a bucket may be cut: the ends of its parameters, and of blocks of those that are
/// divisible.
std::vector<int64_t> places_of(const Bucket& bucket) {
  std::vector<int64_t> places = {0};
  for (const Member& m : bucket.members) {
    const int64_t begin = places.back();
    for (int64_t n = kernels::kNormBlock; m.divisible && n < m.numel; n += kernels::kNormBlock)
      places.push_back(begin + n);
    if (m.numel > 0) places.push_back(begin + m.numel);
  }
  return places;
}

/// Gives each rank what it lacks of an even part, as near as places allow.
void share(Bucket& bucket, std::vector<int64_t>& owned) {
  const size_t ranks = owned.size();
  const std::vector<int64_t> places = places_of(bucket);
  const int64_t before = std::accumulate(owned.begin(), owned.end(), int64_t(0));
  const double even = double(before + bucket.elements) / double(ranks);
  std::vector<double> lacks;
  for (const int64_t n : owned) lacks.push_back(std::max(0.0, even - double(n)));
  const double all = std::max(1.0, std::accumulate(lacks.begin(), lacks.end(), 0.0));
  double wanted = 0;
  int64_t begin = 0;
  for (size_t r = 0; r < ranks; ++r) {
    wanted += lacks[r] / all * double(bucket.elements);
    const auto above = std::lower_bound(places.begin(), places.end(), wanted);
    auto end = above == places.end() ? places.end() - 1 : above;
    if (end != places.begin() && wanted - double(end[-1]) < double(*end) - wanted) --end;
    const int64_t place = r + 1 == ranks ? bucket.elements : std::max(begin, *end);
    bucket.counts.push_back(place - begin);
    owned[r] += place - begin;
    begin = place;
  }
}

}  // namespace

std::vector<ParameterRange> ranges_of(const Bucket& bucket, int rank) {
  const auto begin =
      std::accumulate(bucket.counts.begin(), bucket.counts.begin() + rank, int64_t(0));
  const int64_t end = begin + bucket.counts[size_t(rank)];
  std::vector<ParameterRange> ranges;
  int64_t at = 0;
  for (const Member& m : bucket.members) {
    const int64_t from = std::max(begin, at), to = std::min(end, at + m.numel);
    // One without elements belongs to the first rank.
    if (from < to || (m.numel == 0 && rank == 0))
      ranges.push_back({.parameter = m.parameter,
                        .begin = m.numel == 0 ? 0 : from - at,
                        .end = m.numel == 0 ? 0 : to - at});
    at += m.numel;
  }
  return ranges;
}

std::vector<Bucket> make_buckets(const std::vector<Member>& members, double bytes, int ranks,
                                 int replicas) {
  std::vector<Bucket> closed, open, frozen;
  const auto same_kind = [](const Bucket& b, const Member& m) {
    return b.trained == m.trained && b.expert == m.expert && b.dtype == m.dtype;
  };
  for (const Member& m : members) {
    const auto size = double(size_of(acc_dtype(m.dtype)));
    auto to =
        std::find_if(open.begin(), open.end(), [&](const Bucket& b) { return same_kind(b, m); });
    if (to != open.end() && double(to->elements + m.numel) * size > bytes) {
      closed.push_back(std::move(*to));
      *to = {.trained = m.trained, .expert = m.expert, .dtype = m.dtype};
    }
    if (to == open.end())
      to = open.insert(open.end(), {.trained = m.trained, .expert = m.expert, .dtype = m.dtype});
    to->members.push_back(m);
    to->elements += m.numel;
  }
  std::move(open.begin(), open.end(), std::back_inserter(closed));
  std::stable_partition(closed.begin(), closed.end(), [](const Bucket& b) { return b.trained; });
  // Moments are of what is trained: frozen elements have an even cut of their own.
  std::vector<int64_t> owned[2][2];
  for (Bucket& b : closed) {
    std::vector<int64_t>& so_far = owned[b.trained][b.expert];
    so_far.resize(size_t(b.expert ? replicas : ranks));
    share(b, so_far);
  }
  return closed;
}

std::string describe(const std::vector<Bucket>& buckets) {
  std::string text;
  for (const Bucket& b : buckets) {
    text += detail::concat(b.trained ? "" : "frozen ", b.expert ? "experts " : "", b.dtype, " ",
                           b.elements, ":");
    for (const int64_t n : b.counts) text += detail::concat(" ", n);
    text += "\n";
  }
  return text;
}

}  // namespace olm::nn::parallel
