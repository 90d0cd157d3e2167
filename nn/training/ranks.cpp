// What ranks agree on before and while they train together.
#include <algorithm>

#include <olm/engine/file.h>
#include <olm/nn/description.h>
#include <olm/nn/parallel/agree_internal.h>
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

}  // namespace

std::map<std::string, std::string> flat_members(const Json& json) {
  std::map<std::string, std::string> all;
  flatten(json, "", all);
  return all;
}

void require_same_on_all_ranks(const std::map<std::string, std::string>& values,
                               const dist::Comm& comm) {
  parallel::require_same_facts(comm, {values.begin(), values.end()}, "");
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
  all["folder"] = options_.folder.empty() ? "none" : "given";
  require_same_on_all_ranks(flat_members(all), comm_);
}

/// Parameters are DataParallel's; what training changes beside them (biases of experts) is here.
void Trainer::hand_out_buffers() const {
  Tensors persistent;
  model_->for_each_buffer([&](const std::string&, Buffer& buffer) {
    if (buffer.persistent()) persistent.push_back(buffer.tensor());
  });
  parallel::hand_out(comm_, persistent);
}

}  // namespace olm::nn
