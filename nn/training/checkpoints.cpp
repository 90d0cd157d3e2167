#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

namespace olm::nn {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";

/// The step that a folder's name means; -1 where it is none.
int64_t step_of(const std::string& name) {
  const bool digits =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
  return digits && !name.empty() && name.size() < 18 ? std::stoll(name) : -1;
}

std::string hash_of(const std::string& path) { return hash_hex(MappedFile::open(path)->text()); }

Json to_json(const CheckpointState& s, const std::string& folder) {
  Json json;
  json["format"] = "olm checkpoint";
  json["version"] = 1;
  json["step"] = s.step;
  json["total_steps"] = s.total_steps;
  json["rng"]["seed"] = s.rng_seed;
  json["rng"]["offset"] = s.rng_offset;
  json["loader"] = s.loader;
  json["spikes"] = nn::to_json(s.spikes);
  json["corpus_hash"] = s.corpus_hash;
  json["tokenizer_hash"] = s.tokenizer_hash;
  json["train_seconds"] = s.train_seconds;
  json["val_loss"] = s.val_loss ? Json(*s.val_loss) : Json();
  json["evaluates_rest"] = s.evaluates_rest;
  for (const char* file : {kWeights, kOptimizer})
    json["files"][file] = hash_of(folder + "/" + file);
  json["model"] = s.model;
  json["hash"] = hash_hex(json.dump());
  return json;
}

/// True where the last member is the hash of the others.
bool is_intact(const Json& json) {
  Json content = Json::object();
  const Json* hash = json.find("hash");
  for (const auto& [key, value] : json.members())
    if (key != "hash") content.append(key, value);
  return hash && *hash == Json(hash_hex(content.dump()));
}

/// What to do about a damaged file of a checkpoint.
std::string way_on(const std::string& file) {
  return "; remove the folder " + fs::path(file).parent_path().string() +
         " to go on from an older checkpoint";
}

CheckpointState from_json(const Json& json, const std::string& path) {
  require(json.is_object() && json.contains("format") &&
              json.at("format") == Json("olm checkpoint") && json.at("version") == Json(1),
          path, ": is not the state of an olm checkpoint of version 1");
  require(is_intact(json), path, ": is damaged or was edited, its hash is not that of its content",
          way_on(path));
  CheckpointState s;
  s.step = json.at("step").as_int();
  s.total_steps = json.at("total_steps").as_int();
  s.rng_seed = json.at("rng").at("seed").as_uint();
  s.rng_offset = json.at("rng").at("offset").as_uint();
  s.loader = json.at("loader");
  nn::from_json(json.at("spikes"), s.spikes, path + ": spikes");
  s.corpus_hash = json.at("corpus_hash").as_string();
  s.tokenizer_hash = json.at("tokenizer_hash").as_string();
  s.train_seconds = json.at("train_seconds").as_double();
  if (!json.at("val_loss").is_null()) s.val_loss = json.at("val_loss").as_double();
  s.evaluates_rest = json.contains("evaluates_rest") && json.at("evaluates_rest").as_bool();
  s.model = json.at("model");
  require(s.step >= 0 && s.total_steps >= 0, path, ": step ", s.step, " of ", s.total_steps,
          " cannot be");
  return s;
}

}  // namespace

Checkpoints::Checkpoints(std::string run_folder, int64_t keep)
    : folder_(std::move(run_folder) + "/checkpoints"), keep_(keep) {}

std::vector<int64_t> Checkpoints::steps() const {
  std::vector<int64_t> result;
  std::error_code error;
  for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error))
    if (const int64_t step = step_of(at->path().filename().string()); step >= 0)
      result.push_back(step);
  std::sort(result.begin(), result.end());
  return result;
}

std::string Checkpoints::path(int64_t step) const {
  std::string digits = std::to_string(step);
  if (digits.size() < 6) digits.insert(0, 6 - digits.size(), '0');
  return folder_ + "/" + digits;
}

void Checkpoints::save(const CheckpointState& state, Module& model, const Optimizer& optimizer) {
  make_directories(folder_);
  const std::string final_path = path(state.step);
  const std::string aside = final_path + ".tmp-" + std::to_string(::getpid());
  const std::string old = final_path + ".old-" + std::to_string(::getpid());
  try {
    remove_all(aside);
    make_directories(aside);
    save_weights(model, aside + "/" + kWeights);
    const std::map<std::string, Tensor> moments = optimizer.state_dict();
    write_safetensors(aside + "/" + kOptimizer,
                      std::vector<std::pair<std::string, Tensor>>(moments.begin(), moments.end()));
    write_json(aside + "/state.json", to_json(state, aside));
    sync_folder(aside);
    if (folder_exists(final_path)) move_into_place(final_path, old);
    move_into_place(aside, final_path);
  } catch (...) {
    std::error_code ignored;
    if (fs::exists(old, ignored) && !fs::exists(final_path, ignored))
      fs::rename(old, final_path, ignored);
    fs::remove_all(aside, ignored);
    throw;
  }
  prune(state.step);
}

namespace {
Json read_state(const std::string& file) {
  try {
    return read_json(file);
  } catch (const Error& error) {
    throw FileError(error.what(), way_on(file));
  }
}
}  // namespace

CheckpointState Checkpoints::state(int64_t step) const {
  const std::string file = path(step) + "/state.json";
  try {
    CheckpointState s = from_json(read_state(file), file);
    require(s.step == step, file, ": is the state of step ", s.step,
            ", its folder is that of step ", step);
    return s;
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(std::string(e.what()).starts_with(file) ? "" : file + ": ", e.what());
  }
}

void Checkpoints::check_hash(int64_t step, const std::string& file) const {
  const Json json = read_state(path(step) + "/state.json");
  const Json* files = json.find("files");
  const Json* hash = files && files->is_object() ? files->find(file) : nullptr;
  if (!hash || !hash->is_string() || hash->as_string() != hash_of(path(step) + "/" + file))
    throw FileError(path(step), "/", file, ": is damaged, its hash is not the one in state.json",
                    way_on(path(step) + "/" + file));
}

void Checkpoints::load(int64_t step, Module& model, Optimizer& optimizer) const {
  for (const char* file : {kWeights, kOptimizer}) check_hash(step, file);
  const std::map<std::string, Tensor> before = optimizer.state_dict();
  const SafetensorsFile file = SafetensorsFile::open(path(step) + "/" + kOptimizer);
  std::map<std::string, Tensor> moments;
  for (const std::string& name : file.names()) moments[name] = file.tensor(name);
  try {
    optimizer.load_state_dict(moments);
  } catch (const Error& e) {
    throw FileError(file.path(), ": ", e.what());
  }
  try {
    load_weights(model, path(step) + "/" + kWeights);
  } catch (...) {
    optimizer.load_state_dict(before);
    throw;
  }
}

void Checkpoints::prune(int64_t saved) const {
  std::vector<int64_t> all = steps();
  int64_t best = -1;
  double least = 0;
  for (const int64_t step : all) {
    try {
      const std::optional<double> loss = state(step).val_loss;
      if (!loss || (best >= 0 && *loss >= least)) continue;
      best = step;
      least = *loss;
    } catch (const Error&) {  // a damaged one is never the best
    }
  }
  const size_t newest = all.size() > size_t(keep_) ? all.size() - size_t(keep_) : 0;
  for (size_t i = 0; i < newest; ++i)
    if (all[i] != best && all[i] != saved) remove_all(path(all[i]));
  std::error_code error;
  for (fs::directory_iterator at(folder_, error), end; !error && at != end;) {
    const std::string name = at->path().filename().string();
    const std::string stale = at->path().string();
    at.increment(error);
    // What an ended process left behind.
    if (name.find(".tmp-") != std::string::npos || name.find(".old-") != std::string::npos)
      remove_all(stale);
  }
}

}  // namespace olm::nn
