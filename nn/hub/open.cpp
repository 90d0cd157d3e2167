// Models of the three forms, opened: their files read but for the weights.
#include <algorithm>
#include <cstring>

#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/model_io.h>

namespace olm::nn {

const char* name_of(ModelForm form) {
  switch (form) {
    case ModelForm::run:
      return "run";
    case ModelForm::hugging_face:
      return "Hugging Face folder";
    case ModelForm::gguf:
      return "GGUF file";
  }
  return "";
}

ModelForm form_of(const std::string& path) {
  constexpr const char* kWanted =
      "a run (a folder with model.json), a folder of Hugging Face (config.json) or a GGUF file was "
      "wanted";
  if (folder_exists(path)) {
    if (file_exists(path + "/model.json")) return ModelForm::run;
    if (file_exists(path + "/config.json")) return ModelForm::hugging_face;
    throw FileError(path, ": holds no model.json and no config.json; ", kWanted);
  }
  if (!file_exists(path)) throw FileError(path, ": is no file and no folder; ", kWanted);
  if (MappedFile::open(path)->text().starts_with("GGUF")) return ModelForm::gguf;
  throw FileError(path, ": does not begin as a GGUF file; ", kWanted);
}

namespace hub {

namespace {

/// Larger ones are no files of settings.
constexpr size_t kMaxVendorFile = size_t(64) << 20;

VendorFiles read_vendor_files(const std::string& folder) {
  VendorFiles files;
  for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json",
                           "special_tokens_map.json", "chat_template.jinja", "gguf.json"}) {
    const std::string path = folder + "/" + name;
    if (!path_exists(path)) continue;
    const auto file = MappedFile::open(path);
    if (file->size() > kMaxVendorFile)
      throw FileError(path, ": has ", file->size(), " bytes, at most ", kMaxVendorFile,
                      " were expected");
    if (path.ends_with(".json"))  // written again as it is: it must be whole
      read_json(path);
    files.emplace(name, file->text());
  }
  return files;
}

/// A vendor's file as JSON; null where there is none.
Json vendor_json(const VendorFiles& files, const std::string& folder, const std::string& name) {
  const auto at = files.find(name);
  if (at == files.end()) return {};
  try {
    return Json::parse(at->second, name);
  } catch (const Error& error) {
    throw FileError(folder, "/", error.what());
  }
}

/// `act`, whose errors then name the file, or the folder of files that they name.
template <class Act>
auto naming(const std::string& path, const Act& act) {
  try {
    return act();
  } catch (const FileError&) {
    throw;
  } catch (const Error& error) {
    const std::string what = error.what(), name = path.substr(path.rfind('/') + 1) + ": ";
    throw FileError(path, ": ", what.starts_with(name) ? what.substr(name.size()) : what);
  }
}

/// Null where the folder holds no vocabulary that load_tokenizer() knows.
std::shared_ptr<const Tokenizer> tokenizer_in(const std::string& folder) {
  for (const char* name :
       {"tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json", "encoder.json"})
    if (path_exists(folder + "/" + name)) return load_tokenizer(folder);
  const std::vector<std::string> ranks = list_files(folder, [](const std::string& path) {
    return folder_exists(path) || !path.ends_with(".tiktoken");
  });
  return ranks.empty() ? nullptr : load_tokenizer(folder);
}

/// Special tokens alone may lack a row, as <image_soft_token> of Gemma 3 does: they are named.
void require_ids_fit(StoredModel& m) {
  if (!m.tokenizer || !m.config) return;
  const int64_t rows = m.config->vocab_size, ids = m.tokenizer->vocab_size();
  if (m.tokenizer->min_rows() > rows)
    throw FileError(m.path, ": the tokenizer has ", ids, " ids, but the embedding has ", rows,
                    " rows");
  for (int64_t id = rows; id < ids; ++id)
    m.not_understood.push_back("tokenizer.json: " +
                               std::string(m.tokenizer->token_bytes(int32_t(id))));
}

/// A text ends at the tokenizer's end of text, too.
void add_own_stop(StoredModel& m) {
  if (!m.tokenizer || !m.tokenizer->special().eos) return;
  const int32_t eos = *m.tokenizer->special().eos;
  std::vector<int32_t>& stop = m.generation.stop;
  if (std::find(stop.begin(), stop.end(), eos) == stop.end()) stop.push_back(eos);
}

/// Files may leave out the prefix of names that a model within another has.
void adapt_prefix(StoredModel& m) {
  const std::string& prefix = m.names.prefix;
  for (const StoredTensor& t : m.tensors->entries())
    if (t.name.starts_with(prefix)) return;
  for (ModuleName& module : m.names.modules)
    if (module.name.starts_with(prefix)) module.name.erase(0, prefix.size());
}

/// True where both tensors hold the same numbers; compared by pieces, so that not all of both is in
/// memory.
bool same_values(const TensorSource& files, const StoredTensor& a, const StoredTensor& b) {
  if (a.shape != b.shape) return false;
  const Tensor x = files.tensor(a.name), y = files.tensor(b.name);
  const int64_t rows = a.shape.rank() ? a.shape[0] : 0;
  const int64_t row_bytes = std::max<int64_t>(1, a.bytes / std::max<int64_t>(rows, 1));
  const int64_t step = std::max<int64_t>(1, (int64_t(32) << 20) / row_bytes);
  for (int64_t at = 0; at < rows; at += step) {
    const auto piece = [&](const Tensor& t) {
      const Tensor part = raw::slice(t, 0, at, std::min(rows, at + step));
      return raw::contiguous(a.dtype == b.dtype ? part : raw::cast(part, f64));
    };
    const Tensor p = piece(x), q = piece(y);
    if (std::memcmp(p.data(), q.data(), size_t(p.numel()) * size_of(p.dtype())) != 0) return false;
    files.release(a.name);
    files.release(b.name);
  }
  return true;
}

/// A model whose configuration ties the head, but whose head is stored with other values, is one
/// that does not tie it.
void settle_head(StoredModel& m) {
  if (!m.config->tie_weights) return;
  const StoredTensor *embed = nullptr, *head = nullptr;
  for (const ModuleName& module : m.names.modules)
    for (const StoredTensor& t : m.tensors->entries()) {
      if (module.parts == "embed" && t.name == module.name + module.weight) embed = &t;
      if (module.parts == "head" && t.name == module.name + module.weight) head = &t;
    }
  if (embed && head && !same_values(*m.tensors, *embed, *head)) m.config->tie_weights = false;
}

/// A configuration that was stated, complete, if it is what the module is.
std::optional<DecoderConfig> stated_config(const std::optional<DecoderConfig>& config,
                                           Module& module) {
  if (!config) return {};
  const Ref<BlockModule> made = DecoderModel(*config);
  const bool same =
      describe(*made) == describe(module) && weights_metadata(*made) == weights_metadata(module);
  return same ? std::optional(config->completed()) : std::nullopt;
}

std::vector<NamedTensor> distinct_tensors(Module& model) {
  std::vector<NamedTensor> result;
  std::vector<const TensorImpl*> seen;
  for (const auto& [key, tensor] : model.state_dict()) {
    if (std::find(seen.begin(), seen.end(), &tensor.impl()) != seen.end()) continue;
    seen.push_back(&tensor.impl());
    result.emplace_back(key, tensor);
  }
  return result;
}

/// Empty for a model that is no decoder.
std::optional<DecoderConfig> config_of(Module& model) {
  try {
    return decoder_config_of(model);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

StoredModel open_hugging_face(const std::string& folder) {
  StoredModel m{.form = ModelForm::hugging_face, .path = folder};
  m.vendor = read_vendor_files(folder);
  if (!m.vendor.count("config.json")) throw FileError(folder, ": holds no config.json");
  const Json config = vendor_json(m.vendor, folder, "config.json");
  ReadConfig read = naming(folder + "/config.json", [&] { return config_from_json(config); });
  m.config = std::move(read.config);
  m.vendor_family = read.family;
  m.not_understood = std::move(read.not_understood);
  m.names = family_of(read.family).hugging_face;
  m.tensors = open_safetensors(folder, m.names.ignored);
  adapt_prefix(m);
  settle_head(m);
  naming(folder, [&] { check_tensors(m); });
  m.tokenizer = tokenizer_in(folder);
  require_ids_fit(m);
  const Json generation = vendor_json(m.vendor, folder, "generation_config.json");
  m.generation = naming(folder, [&] { return generation_from_json(generation, config); });
  add_own_stop(m);
  return m;
}

StoredModel open_run(const std::string& folder) {
  StoredModel m{.form = ModelForm::run, .path = folder};
  const Ref<Module> module = load_unfilled(folder);
  const std::string pretrained = folder + "/pretrained";
  m.vendor = read_vendor_files(pretrained);
  m.tensors = open_safetensors(folder);
  const Json config = vendor_json(m.vendor, pretrained, "config.json");
  if (!config.is_null()) {
    ReadConfig read = naming(pretrained + "/config.json", [&] { return config_from_json(config); });
    if (may_hold(*m.tensors, read.config)) m.config = stated_config(read.config, *module);
    m.vendor_family = read.family;
    m.not_understood = std::move(read.not_understood);
  }
  if (!m.config) m.config = config_of(*module);
  if (m.config) m.names = names_here(*m.config);
  m.tokenizer = tokenizer_in(folder);
  require_ids_fit(m);
  const Json generation = vendor_json(m.vendor, pretrained, "generation_config.json");
  m.generation = naming(pretrained, [&] { return generation_from_json(generation, config); });
  add_own_stop(m);
  return m;
}

StoredModel open_model(const std::string& path) {
  switch (form_of(path)) {
    case ModelForm::run:
      return open_run(path);
    case ModelForm::hugging_face:
      return open_hugging_face(path);
    case ModelForm::gguf:
      return open_gguf(path);
  }
  return {};
}

StoredModel stored(const Pretrained& model) {
  require(bool(model.model), "a model was wanted, there is none");
  StoredModel m{.form = ModelForm::run,
                .path = "the model in memory",
                .vendor_family = model.vendor_family,
                .tokenizer = model.tokenizer,
                .generation = model.generation,
                .vendor = model.vendor,
                .not_understood = model.not_understood};
  m.config = stated_config(model.config, *model.model);
  if (!m.config) m.config = config_of(*model.model);
  if (m.config) m.names = names_here(*m.config);
  m.tensors = tensors_in_memory(distinct_tensors(*model.model));
  return m;
}

}  // namespace hub
}  // namespace olm::nn
