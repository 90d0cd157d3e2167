// Tensors of safetensors files, of one or of many shards, and tensors in memory.
#include <algorithm>
#include <set>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/stored_internal.h>

namespace olm::nn::hub {

namespace {

constexpr const char* kWeights = "/model.safetensors";
constexpr const char* kIndex = "/model.safetensors.index.json";

std::optional<DType> float_type(const std::string& name) {
  if (name == "F32") return f32;
  if (name == "BF16") return bf16;
  if (name == "F16") return f16;
  if (name == "F64") return f64;
  return {};
}

class SafetensorsSource final : public TensorSource {
 public:
  /// Adds the tensors of a file. Throws FileError for types that are not read.
  void add(SafetensorsFile file, const std::vector<std::string>& ignored) {
    std::string others;
    for (const std::string& name : file.names()) {
      if (ends_with_any(name, ignored)) continue;
      const SafetensorsEntry& e = file.entry(name);
      const std::optional<DType> dtype = float_type(e.dtype);
      if (!dtype || e.shape.size() > size_t(kMaxRank)) {
        others += (others.empty() ? "" : ", ") + name + " (" + e.dtype + " " + e.shape_text() + ")";
        continue;
      }
      entries_.push_back({.name = name,
                          .type = e.dtype,
                          .dtype = *dtype,
                          .shape = Shape(e.shape),
                          .bytes = int64_t(e.bytes)});
      const auto [at, fresh] = file_of_.emplace(name, files_.size());
      if (!fresh)
        throw FileError(file.path(), ": tensor \"", name, "\" is in ", files_[at->second].path(),
                        " as well");
    }
    if (!others.empty())
      throw FileError(file.path(), ": tensors of types that are no weights here: ", others,
                      "; F32, BF16, F16 and F64 are read, quantised weights only from GGUF");
    files_.push_back(std::move(file));
  }
  const std::vector<StoredTensor>& entries() const override { return entries_; }
  Tensor tensor(const std::string& name) const override { return file(name).tensor(name); }
  void release(const std::string& name) const override { file(name).release(name); }

 private:
  const SafetensorsFile& file(const std::string& name) const {
    const auto at = file_of_.find(name);
    require(at != file_of_.end(), "there is no tensor \"", name, "\"");
    return files_[at->second];
  }
  std::vector<SafetensorsFile> files_;
  std::vector<StoredTensor> entries_;
  std::map<std::string, size_t> file_of_;
};

class MemorySource final : public TensorSource {
 public:
  explicit MemorySource(const std::vector<NamedTensor>& tensors) {
    for (const auto& [name, tensor] : tensors) {
      entries_.push_back({.name = name,
                          .type = name_of(tensor.dtype()),
                          .dtype = tensor.dtype(),
                          .shape = tensor.shape(),
                          .bytes = tensor.numel() * int64_t(size_of(tensor.dtype()))});
      tensors_.emplace(name, tensor);
    }
  }
  const std::vector<StoredTensor>& entries() const override { return entries_; }
  Tensor tensor(const std::string& name) const override {
    const auto at = tensors_.find(name);
    require(at != tensors_.end(), "there is no tensor \"", name, "\"");
    return raw::to(at->second, cpu);
  }

 private:
  std::vector<StoredTensor> entries_;
  std::map<std::string, Tensor> tensors_;
};

/// The shard of each tensor, as an index says it. A shard is a file of this folder, whatever the
/// index would have it be.
std::map<std::string, std::string> read_index(const std::string& path) try {
  std::map<std::string, std::string> shards;
  const Json json = read_json(path);
  for (const auto& [name, file] : json.at("weight_map").members()) {
    const std::string& shard = file.as_string();
    require(!shard.empty() && shard[0] != '.' && shard.find('/') == std::string::npos &&
                shard.find('\0') == std::string::npos && shard.ends_with(".safetensors"),
            "\"", shard, "\" as the shard of ", name,
            ": the name of a .safetensors file beside the index was wanted");
    shards.emplace(name, shard);
  }
  return shards;
} catch (const FileError&) {
  throw;
} catch (const Error& error) {
  throw FileError(path, ": ", error.what());
}

/// Throws where a shard holds other tensors than the index says.
void check_shard(const SafetensorsFile& file, const std::string& shard,
                 const std::map<std::string, std::string>& index) {
  std::string missing, surplus;
  const auto add = [](std::string& list, const std::string& name) {
    list += (list.empty() ? "" : ", ") + name;
  };
  for (const auto& [name, where] : index)
    if (where == shard && !file.contains(name)) add(missing, name);
  for (const std::string& name : file.names()) {
    const auto at = index.find(name);
    if (at == index.end() || at->second != shard) add(surplus, name);
  }
  if (missing.empty() && surplus.empty()) return;
  throw FileError(file.path(), ": does not hold what the index says",
                  missing.empty() ? "" : "; missing are " + missing,
                  surplus.empty() ? "" : "; surplus are " + surplus);
}

[[noreturn]] void fail_without_weights(const std::string& folder) {
  for (const char* pickled : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (file_exists(folder + "/" + pickled))
      throw FileError(folder, "/", pickled,
                      ": pickled weights are not read, since they are programs; "
                      "model.safetensors was wanted");
  throw FileError(folder, ": holds neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace

std::shared_ptr<const TensorSource> open_safetensors(const std::string& folder,
                                                     const std::vector<std::string>& ignored) {
  auto source = std::make_shared<SafetensorsSource>();
  if (file_exists(folder + kWeights)) {
    source->add(SafetensorsFile::open(folder + kWeights), ignored);
    return source;
  }
  if (!file_exists(folder + kIndex)) fail_without_weights(folder);
  const auto index = read_index(folder + kIndex);
  std::set<std::string> shards;
  for (const auto& [name, shard] : index) shards.insert(shard);
  for (const std::string& shard : shards) {
    SafetensorsFile file = SafetensorsFile::open(folder + "/" + shard);
    check_shard(file, shard, index);
    source->add(std::move(file), ignored);
  }
  return source;
}

std::shared_ptr<const TensorSource> tensors_in_memory(const std::vector<NamedTensor>& tensors) {
  return std::make_shared<MemorySource>(tensors);
}

}  // namespace olm::nn::hub
