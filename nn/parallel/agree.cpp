#include <olm/nn/parallel/agree_internal.h>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>

namespace olm::nn::parallel {
namespace {

/// Ranks that gave each value, in the order of the first of them.
std::vector<std::pair<std::string, std::vector<int>>> by_value(
    const std::vector<std::string>& values) {
  std::vector<std::pair<std::string, std::vector<int>>> groups;
  for (size_t r = 0; r < values.size(); ++r) {
    auto at = groups.begin();
    while (at != groups.end() && at->first != values[r]) ++at;
    if (at == groups.end()) at = groups.insert(at, {values[r], {}});
    at->second.push_back(int(r));
  }
  return groups;
}

std::string hash_of(const Tensor& t) {
  const Tensor host = raw::contiguous(raw::to(t, cpu));
  return hash_hex(
      {static_cast<const char*>(host.data()), size_t(host.numel()) * size_of(host.dtype())});
}

}  // namespace

std::string name_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i)
    text += (i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ") + std::to_string(ranks[i]);
  return text;
}

void require_same_facts(const dist::Comm& comm, const Facts& facts) {
  Json mine = Json::array();
  for (const auto& fact : facts) mine.push_back(Json(fact.second));
  std::vector<Json> all;
  for (const std::string& text : comm.all_gather(mine.dump()))
    all.push_back(Json::parse(text, "facts of a rank"));
  for (size_t i = 0; i < facts.size(); ++i) {
    std::vector<std::string> values;
    for (const Json& rank : all)
      values.push_back(i < rank.size() ? rank.at(i).as_string() : "nothing");
    const auto groups = by_value(values);
    if (groups.size() == 1) continue;
    std::string text;
    for (const auto& [value, ranks] : groups)
      text += (text.empty() ? "" : ", ") + value + " on " + name_ranks(ranks);
    fail("DataParallel: ranks differ in ", facts[i].first, ": ", text);
  }
}

void hand_out(const dist::Comm& comm, const Tensors& tensors) {
  if (comm.size() == 1) return;
  std::string hashes;
  for (const Tensor& t : tensors) hashes += hash_of(t);
  const std::vector<std::string> all = comm.all_gather(hashes);
  const size_t width = tensors.empty() ? 0 : hashes.size() / tensors.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    bool differs = false;
    for (const std::string& other : all)
      differs = differs || other.compare(i * width, width, all[0], i * width, width) != 0;
    if (!differs) continue;
    const Tensor whole = raw::contiguous(tensors[i]);
    comm.broadcast(whole, 0).wait();
    if (!whole.is_same(tensors[i])) raw::copy_(tensors[i], whole);
  }
}

}  // namespace olm::nn::parallel
