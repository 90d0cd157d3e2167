// What ranks agree on before and while they train together.
#include <algorithm>

#include <olm/engine/file.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>

namespace olm::nn {

namespace ranks {

bool on_any_rank(const dist::Comm& comm, bool mine) {
  if (comm.size() == 1) return mine;
  const std::vector<std::string> all = comm.all_gather(std::string(mine ? "1" : "0"));
  return std::find(all.begin(), all.end(), "1") != all.end();
}

void tell_failure(const dist::Comm& comm) {
  if (comm.size() == 1) return;
  try {
    throw;
  } catch (const dist::CommError&) {  // the failure of another
  } catch (const std::exception& error) {
    dist::fail(error.what());
  } catch (...) {
    dist::fail("an exception that is no std::exception");
  }
}

}  // namespace ranks

namespace {

void flatten(const Json& json, const std::string& path, std::map<std::string, std::string>& all) {
  const std::string prefix = path.empty() ? "" : path + ".";
  if (json.is_object() && json.size() > 0)
    for (const auto& [key, value] : json.members()) flatten(value, prefix + key, all);
  else if (json.is_array() && json.size() > 0)
    for (size_t i = 0; i < json.size(); ++i) flatten(json.at(i), prefix + std::to_string(i), all);
  else
    all[path] = json.is_string() ? json.as_string() : json.dump();
}

/// Keys with hashes of their values.
std::string hashes_of(const std::map<std::string, std::string>& values) {
  ranks::ByteWriter writer;
  for (const auto& [key, value] : values) {
    writer.put(key);
    writer.put(hash_hex(value));
  }
  return writer.take();
}

/// The first key that one rank does not have, or with another value.
std::string first_difference(const std::vector<std::string>& all) {
  std::vector<std::map<std::string, std::string>> maps;
  std::map<std::string, std::string> any;
  for (const std::string& bytes : all) {
    std::map<std::string, std::string>& map = maps.emplace_back();
    for (ranks::ByteReader reader(bytes); !reader.done();) {
      const std::string key = reader.get_text();
      map[key] = reader.get_text();
    }
    any.insert(map.begin(), map.end());
  }
  for (const auto& [key, value] : any)
    for (const auto& map : maps)
      if (const auto found = map.find(key); found == map.end() || found->second != value)
        return key;
  return "";
}

/// "rank 2", "ranks 0, 1 and 5"; of many the first few.
std::string ranks_text(const std::vector<size_t>& ranks) {
  constexpr size_t kMaxNamed = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(ranks.size(), kMaxNamed); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (ranks.size() > kMaxNamed) text += detail::concat(" and ", ranks.size() - kMaxNamed, " more");
  return text;
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
std::string who_has_what(const std::vector<std::string>& all) {
  std::vector<std::pair<std::string, std::vector<size_t>>> kinds;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto same = [&](const auto& kind) { return kind.first == all[rank]; };
    auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end()) kind = kinds.insert(kind, {all[rank], {}});
    kind->second.push_back(rank);
  }
  const std::string &a = kinds[0].first, &b = kinds[1].first;
  const auto at = size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  std::string text;
  for (const auto& [value, ranks] : kinds) {
    if (!text.empty()) text += ", ";
    text += value[0] == '0' ? "not there" : excerpt(value.substr(1), std::max<size_t>(at, 1) - 1);
    text += " on " + ranks_text(ranks);
  }
  return text;
}

}  // namespace

std::map<std::string, std::string> flat_members(const Json& json) {
  std::map<std::string, std::string> all;
  flatten(json, "", all);
  return all;
}

void require_same_on_all_ranks(const std::map<std::string, std::string>& values,
                               const dist::Comm& comm) {
  if (comm.size() == 1) return;
  const std::string mine = hashes_of(values);
  const std::vector<std::string> short_hashes = comm.all_gather(hash_hex(mine));
  if (std::count(short_hashes.begin(), short_hashes.end(), short_hashes[0]) == comm.size()) return;
  const std::string key = first_difference(comm.all_gather(mine));
  const auto found = values.find(key);
  const std::vector<std::string> all =
      comm.all_gather(found == values.end() ? std::string("0") : "1" + found->second);
  throw Error("ranks disagree on ", key, ": ", who_has_what(all));
}

}  // namespace olm::nn
