#include <olm/nn/parallel/agree_internal.h>

#include <algorithm>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>

namespace olm::nn::parallel {
namespace {

/// A fact as it travels: "1" and its value, or "0" where a rank does not have it.
std::string find(const Facts& facts, const std::string& name) {
  for (const auto& [key, value] : facts)
    if (key == name) return "1" + value;
  return "0";
}

/// The first fact that one rank does not have, or with another value; "" where there is none.
std::string first_difference(const std::vector<Facts>& all) {
  for (const Facts& facts : all)
    for (size_t i = 0; i < facts.size(); ++i) {
      const auto& [name, value] = facts[i];
      for (const Facts& other : all) {
        const bool same = i < other.size() && other[i] == facts[i];
        if (!same && find(other, name) != "1" + value) return name;
      }
    }
  return "";
}

/// A value for a message: of a long one what stands around its byte number `at`.
std::string excerpt(const std::string& value, size_t at) {
  constexpr size_t kBefore = 20, kAfter = 40;
  if (value.empty()) return "empty";
  const size_t begin = at > kBefore ? at - kBefore : 0;
  const size_t end = std::min(value.size(), at + kAfter);
  return (begin > 0 ? "…" : "") + value.substr(begin, end - begin) +
         (end < value.size() ? "…" : "");
}

/// "3 on rank 0, 4 on ranks 1 and 2".
std::string who_has_what(const std::vector<std::string>& found) {
  std::vector<std::pair<std::string, std::vector<int>>> kinds;
  for (size_t rank = 0; rank < found.size(); ++rank) {
    auto kind = kinds.begin();
    while (kind != kinds.end() && kind->first != found[rank]) ++kind;
    if (kind == kinds.end()) kind = kinds.insert(kind, {found[rank], {}});
    kind->second.push_back(int(rank));
  }
  const std::string &a = kinds[0].first, &b = kinds[1].first;
  const auto at = size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  std::string text;
  for (const auto& [value, ranks] : kinds) {
    if (!text.empty()) text += ", ";
    text += value[0] == '0' ? "not there" : excerpt(value.substr(1), std::max<size_t>(at, 1) - 1);
    text += " on " + name_ranks(ranks);
  }
  return text;
}

std::string hash_of(const Tensor& t) {
  const Tensor host = raw::contiguous(raw::to(t, cpu));
  return hash_hex(
      {static_cast<const char*>(host.data()), size_t(host.numel()) * size_of(host.dtype())});
}

}  // namespace

std::string name_ranks(const std::vector<int>& ranks) {
  constexpr size_t kMaxNamed = 8;
  const size_t n = ranks.size(), named = std::min(n, kMaxNamed);
  std::string text = n == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < named; ++i)
    text += (i == 0 ? "" : i + 1 == n ? " and " : ", ") + std::to_string(ranks[i]);
  return n > named ? text + " and " + std::to_string(n - named) + " more" : text;
}

/// Hashes travel first, so that many long values cost nothing where they are the same.
void require_same_facts(const dist::Comm& comm, const Facts& facts, const char* who) {
  if (comm.size() == 1) return;
  Json mine = Json::array();
  for (const auto& [name, value] : facts) {
    mine.push_back(name);
    mine.push_back(hash_hex(value));
  }
  const std::vector<std::string> hashes = comm.all_gather(hash_hex(mine.dump()));
  if (std::count(hashes.begin(), hashes.end(), hashes[0]) == comm.size()) return;
  std::vector<Facts> all;
  for (const std::string& text : comm.all_gather(mine.dump())) {
    const Json rank = Json::parse(text, "facts of a rank");
    Facts& its = all.emplace_back();
    for (size_t i = 0; i + 1 < rank.size(); i += 2)
      its.emplace_back(rank.at(i).as_string(), rank.at(i + 1).as_string());
  }
  const std::string name = first_difference(all);
  if (name.empty()) return;  // the same in another order
  const std::vector<std::string> found = comm.all_gather(find(facts, name));
  fail(who, "ranks disagree on ", name, ": ", who_has_what(found));
}

/// What travels does not grow with ranks times tensors: a hash of all hashes, and where those
/// differ rank 0's, and on how many ranks each tensor has another.
void hand_out(const dist::Comm& comm, const Tensors& tensors) {
  if (comm.size() == 1) return;
  std::string hashes;
  for (const Tensor& t : tensors) hashes += hash_of(t);
  const std::vector<std::string> all = comm.all_gather(hash_hex(hashes));
  if (std::count(all.begin(), all.end(), all[0]) == comm.size()) return;
  const std::string first = comm.all_gather(comm.rank() == 0 ? hashes : "").front();
  const size_t width = hashes.size() / tensors.size();
  std::vector<int32_t> differing(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i)
    differing[i] = hashes.compare(i * width, width, first, i * width, width) != 0;
  const Tensor on_ranks = from_host(differing, {int64_t(tensors.size())});
  comm.all_reduce(on_ranks).wait();
  differing = to_host<int32_t>(on_ranks);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (differing[i] == 0) continue;
    const Tensor whole = raw::contiguous(tensors[i]);
    comm.broadcast(whole, 0).wait();
    if (!whole.is_same(tensors[i])) raw::copy_(tensors[i], whole);
  }
}

}  // namespace olm::nn::parallel
