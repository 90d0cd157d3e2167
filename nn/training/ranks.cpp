// What ranks agree on before and while they train together.
#include <algorithm>

#include <olm/engine/file.h>
#include <olm/nn/description.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>
#include <olm/nn/version.h>

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

namespace {

/// Names the ids: by the text and tokenizer that they are of, else by themselves.
Json identity_of(const TokenDataset& data) {
  Json json;
  json["tokens"] = data.size();
  json["tokenizer hash"] = data.tokenizer_hash();
  json["corpus hash"] = data.source_hash();
  if (!data.source_hash().empty()) return json;
  constexpr int64_t kIdsAtOnce = 1 << 16;
  std::vector<int64_t> ids;
  std::string hash;
  for (int64_t begin = 0; begin < data.size(); begin += kIdsAtOnce) {
    ids.resize(size_t(std::min(kIdsAtOnce, data.size() - begin)));
    data.read(begin, int64_t(ids.size()), ids.data());
    hash = hash_hex(hash + std::string(reinterpret_cast<const char*>(ids.data()),
                                       ids.size() * sizeof(int64_t)));
  }
  json["corpus hash"] = hash;
  return json;
}

Json to_json(const TrainerOptions& o) {
  Json json;
  json["total_steps"] = o.total_steps;
  json["accumulation"] = o.accumulation;
  json["dtype"] = std::string(name_of(o.dtype));
  json["seed"] = o.seed;
  json["schedule"] = to_json(o.schedule);
  json["decay_fraction"] = o.decay_fraction;
  json["eval_every"] = o.eval_every;
  json["sample_every"] = o.sample_every;
  json["checkpoint_every"] = o.checkpoint_every;
  json["loads_every"] = o.loads_every;
  json["keep"] = o.keep;
  json["spike_factor"] = o.spike_factor;
  json["sample"] = to_json(o.sample);
  json["sample"]["seed"] = o.sample.seed;
  json["prompt"] = Json(o.prompt);
  json["end_of_text"] = o.end_of_text ? Json(*o.end_of_text) : Json();
  json["dist"] = to_json(o.dist);
  return json;
}

}  // namespace

void Trainer::require_same_ranks() const {
  if (comm_.size() == 1) return;
  Json all = to_json(options_);
  all["library version"] = version();
  all["device"] = std::string(device_of(*model_) == cpu ? "a CPU" : "a card");
  all["training data"] = identity_of(loader_.dataset());
  all["validation data"] = identity_of(validation_);
  all["loader"] = loader_.state();
  all["model"] = describe(*model_);
  require_same_on_all_ranks(flat_members(all), comm_);
}

}  // namespace olm::nn
