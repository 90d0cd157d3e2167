#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <numeric>

#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

namespace olm::nn {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kFiles[] = {kWeights, kOptimizer};
constexpr int64_t kVersion = 2;

/// The step that a folder's name means; -1 where it is none.
int64_t step_of(const std::string& name) {
  const bool digits =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
  return digits && !name.empty() && name.size() < 18 ? std::stoll(name) : -1;
}

/// Bytes of a file that are hashed as one, so that ranks can share the work.
constexpr int64_t kHashBlock = 1 << 20;

/// The hash of the hashes of a file's blocks, of which each rank makes some.
std::string hash_of_blocks(const std::string& path, int64_t block, const dist::Comm& comm) {
  const std::vector<std::string> parts = dist::all_gather_of(comm, [&] {
    const auto file = MappedFile::open(path);
    const int64_t size = int64_t(file->size()), blocks = (size + block - 1) / block;
    const dist::Counts counts = dist::even_counts(blocks, comm.size());
    const auto mine = counts.begin() + comm.rank();
    const int64_t first = std::accumulate(counts.begin(), mine, int64_t(0));
    std::string hashes;
    for (int64_t at = first * block; at < std::min(size, (first + *mine) * block); at += block) {
      hashes += hash_hex(file->text().substr(size_t(at), size_t(block)));
      file->release(size_t(at), size_t(block));
    }
    return hashes;
  });
  return hash_hex(std::accumulate(parts.begin(), parts.end(), std::string()));
}

Json file_json(const std::string& path, const dist::Comm& comm) {
  Json json;
  json["block"] = kHashBlock;
  json["hash"] = hash_of_blocks(path, kHashBlock, comm);
  return json;
}

/// True where `said`, the entry of a file in state.json, is the file's hash. Version 1 has that of
/// the whole, which rank 0 makes.
bool is_hash(const Json& said, const std::string& path, const dist::Comm& comm) {
  if (!said.is_string()) {
    if (!said.is_object() || !said.contains("block") || !said.contains("hash")) return false;
    const int64_t block = said.at("block").as_int();
    return block > 0 && said.at("hash").as_string() == hash_of_blocks(path, block, comm);
  }
  const auto whole = dist::all_gather_of(comm, [&] {
    return comm.rank() == 0 ? hash_hex(MappedFile::open(path)->text()) : std::string();
  });
  return said.as_string() == whole[0];
}

/// `files`: the entry of each of kFiles.
Json to_json(const CheckpointState& s, const std::vector<Json>& files) {
  Json json;
  json["format"] = "olm checkpoint";
  json["version"] = kVersion;
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
  for (size_t i = 0; i < files.size(); ++i) json["files"][kFiles[i]] = files[i];
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
              json.at("format") == Json("olm checkpoint") &&
              (json.at("version") == Json(1) || json.at("version") == Json(kVersion)),
          path, ": is not the state of an olm checkpoint of version 1 or ", kVersion);
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

void Checkpoints::write(const std::string& folder, const CheckpointState& state, Module& model,
                        const Optimizer& optimizer, const dist::Comm& comm) const {
  save_weights(model, folder + "/" + kWeights, comm);
  write_safetensors(folder + "/" + kOptimizer, optimizer.state_layout(), optimizer.state_pieces(),
                    {}, comm);
  std::vector<Json> files;
  for (const char* file : kFiles) files.push_back(file_json(folder + "/" + file, comm));
  dist::together(comm, [&] {
    if (comm.rank() != 0) return;
    write_json(folder + "/state.json", to_json(state, files));
    sync_folder(folder);
  });
}

namespace {
/// Renames a folder to `to`. Where one is there already the two exchange names, so that no moment
/// is without `to`; on file systems that cannot (NFS) a process that ends between two renames
/// leaves the older one under another name.
void exchange_into_place(const std::string& from, const std::string& to) {
  if (!folder_exists(to)) return move_into_place(from, to);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0)
    return sync_folder(fs::path(to).parent_path().string());
  const std::string old = from + ".old";
  move_into_place(to, old);
  try {
    move_into_place(from, to);
  } catch (...) {
    std::error_code ignored;
    fs::rename(old, to, ignored);
    throw;
  }
}
}  // namespace

void Checkpoints::save(const CheckpointState& state, Module& model, const Optimizer& optimizer,
                       const dist::Comm& comm) {
  const bool leads = comm.rank() == 0;  // makes folders, renames and removes
  const std::string final_path = path(state.step);
  std::string aside = final_path + ".tmp-" + std::to_string(::getpid());
  try {
    aside = dist::all_gather_of(comm, [&] {
              if (!leads) return std::string();
              make_directories(folder_);
              remove_all(aside);
              make_directories(aside);
              return aside;
            }).front();
    write(aside, state, model, optimizer, comm);
    dist::together(comm, [&] {
      if (leads) exchange_into_place(aside, final_path);
    });
  } catch (...) {
    if (!leads) throw;
    std::error_code ignored;
    fs::remove_all(aside, ignored);
    throw;
  }
  dist::together(comm, [&] {
    if (leads) prune(state.step);
  });
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

void Checkpoints::check_hashes(int64_t step, const dist::Comm& comm) const {
  const std::string state = path(step) + "/state.json";
  Json files;
  dist::together(comm, [&] {
    const Json json = read_state(state);
    if (json.contains("files")) files = json.at("files");
  });
  for (const char* name : kFiles) {
    const std::string file = path(step) + "/" + name;
    const Json* hash = files.is_object() ? files.find(name) : nullptr;
    if (!hash || !is_hash(*hash, file, comm))
      throw FileError(file, ": is damaged, its hash is not the one in state.json", way_on(file));
  }
}

void Checkpoints::load(int64_t step, Module& model, Optimizer& optimizer,
                       const dist::Comm& comm) const {
  check_hashes(step, comm);
  const std::string weights = path(step) + "/" + kWeights;
  std::map<std::string, Tensor> moments;
  dist::together(comm, [&] {
    load_weights(model, weights, {.check_only = true});
    const SafetensorsFile file = SafetensorsFile::open(path(step) + "/" + kOptimizer);
    for (const std::string& name : file.names()) moments[name] = file.tensor(name);
  });
  dist::together(comm, [&] {
    try {
      optimizer.load_state_dict(moments);
    } catch (const Error& e) {
      throw FileError(path(step), "/", kOptimizer, ": ", e.what());
    }
    load_weights(model, weights);
  });
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
  const std::string old = ".old-" + std::to_string(::getpid());
  for (size_t i = 0; i < newest; ++i)  // of what has its name nothing is missing
    if (all[i] != best && all[i] != saved) move_into_place(path(all[i]), path(all[i]) + old);
  std::error_code error;
  for (fs::directory_iterator at(folder_, error), end; !error && at != end;) {
    const std::string name = at->path().filename().string();
    const std::string stale = at->path().string();
    at.increment(error);
    // Those above, one that was saved again, and what ended processes left behind.
    if (name.find(".tmp-") != std::string::npos || name.find(".old-") != std::string::npos)
      remove_all(stale);
  }
}

}  // namespace olm::nn
