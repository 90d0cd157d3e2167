// Models written as folders, one tensor at a time.
#include <algorithm>

#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/model_io.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::hub {

namespace {

using Metadata = std::map<std::string, std::string>;

/// The dtype that options name for all weights; empty for that of each.
std::optional<DType> wanted_type(const SaveOptions& options) {
  if (!options.type) return {};
  for (const DType dtype : {f32, f16, bf16})
    if (*options.type == olm::name_of(dtype)) return dtype;
  fail("weights of type \"", *options.type, "\": f32, f16 or bf16 was wanted");
}

SafetensorsItem item_of(const PlannedTensor& planned, const StoredModel& model,
                        const SaveOptions& options) {
  const DType dtype = wanted_type(options).value_or(planned.dtype);
  const auto make = [planned, dtype, should_stop = options.should_stop] {
    require(!should_stop || !should_stop(), "stopped before all tensors were written");
    return raw::cast(planned.make(), dtype);
  };
  const auto done = [files = model.tensors, sources = planned.sources] {
    for (const std::string& source : sources) files->release(source);
  };
  return {.name = planned.name, .dtype = dtype, .shape = planned.shape, .make = make, .done = done};
}

std::vector<SafetensorsItem> items_of(const std::vector<PlannedTensor>& plan,
                                      const StoredModel& model, const SaveOptions& options) {
  std::vector<SafetensorsItem> items;
  for (const PlannedTensor& planned : plan) items.push_back(item_of(planned, model, options));
  return items;
}

int64_t bytes_of(const SafetensorsItem& item) {
  return item.shape.numel() * int64_t(size_of(item.dtype));
}

/// Items in turn, in as few parts as each of at most `most` bytes allows; one that is larger is a
/// part of its own.
std::vector<std::vector<SafetensorsItem>> shards_of(std::vector<SafetensorsItem> items,
                                                    int64_t most) {
  require(most > 0, "shards of ", most, " bytes: more than 0 were wanted");
  std::vector<std::vector<SafetensorsItem>> shards(1);
  int64_t bytes = 0;
  for (SafetensorsItem& item : items) {
    if (!shards.back().empty() && bytes + bytes_of(item) > most) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += bytes_of(item);
    shards.back().push_back(std::move(item));
  }
  return shards;
}

/// "model-00001-of-00002.safetensors".
std::string shard_name(size_t at, size_t of) {
  const auto five = [](size_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "model-" + five(at + 1) + "-of-" + five(of) + ".safetensors";
}

Json index_of(const std::vector<std::vector<SafetensorsItem>>& shards) {
  std::map<std::string, std::string> shard_of;
  int64_t numbers = 0, bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i)
    for (const SafetensorsItem& item : shards[i]) {
      shard_of[item.name] = shard_name(i, shards.size());
      numbers += item.shape.numel();
      bytes += bytes_of(item);
    }
  Json index;
  index["metadata"]["total_parameters"] = numbers;
  index["metadata"]["total_size"] = bytes;
  Json& map = index["weight_map"] = Json::object();
  for (const auto& [name, shard] : shard_of) map.append(name, shard);
  return index;
}

void write_weights(const FolderWriter& folder, std::vector<SafetensorsItem> items,
                   int64_t shard_bytes) {
  const Metadata metadata{{"format", "pt"}};
  auto shards = shards_of(std::move(items), shard_bytes);
  if (shards.size() == 1)
    return write_safetensors(folder / "model.safetensors", std::move(shards[0]), metadata);
  write_json(folder / "model.safetensors.index.json", index_of(shards));
  for (size_t i = 0; i < shards.size(); ++i)
    write_safetensors(folder / shard_name(i, shards.size()), std::move(shards[i]), metadata);
}

/// torch's name of the dtype that most numbers have.
std::string main_dtype(const std::vector<SafetensorsItem>& items) {
  std::map<DType, int64_t> numbers;
  for (const SafetensorsItem& item : items) numbers[item.dtype] += item.shape.numel();
  switch (largest_of(numbers)) {
    case bf16:
      return "bfloat16";
    case f16:
      return "float16";
    case f64:
      return "float64";
    default:
      return "float32";
  }
}

Json vendor_json(const StoredModel& model, const std::string& name) {
  const auto at = model.vendor.find(name);
  return at == model.vendor.end() ? Json() : Json::parse(at->second, name);
}

/// What of the vendor's is kept as it is.
void write_vendor_files(const std::string& folder, const VendorFiles& files,
                        const std::vector<std::string>& leave_out) {
  for (const auto& [name, text] : files)
    if (std::find(leave_out.begin(), leave_out.end(), name) == leave_out.end())
      write_file(folder + "/" + name, text);
}

void write_tokenizer(const FolderWriter& folder, const StoredModel& model) {
  if (!model.tokenizer) return;
  write_json(folder / "tokenizer.json", hugging_face_json(*model.tokenizer));
  if (!model.vendor.count("tokenizer_config.json"))
    write_json(folder / "tokenizer_config.json",
               formats::tokenizer_config_json(*model.tokenizer, model.config->max_seq_len, Json()));
}

void write_hugging_face_files(const StoredModel& model, const Family& family,
                              const SaveOptions& options, const FolderWriter& folder) {
  std::vector<SafetensorsItem> items = items_of(plan(model, family.hugging_face), model, options);
  const Json before =
      family.model_type == model.vendor_family ? vendor_json(model, "config.json") : Json();
  Json config = config_to_json(*model.config, family, before);
  for (const char* key : {"dtype", "torch_dtype"}) config[key] = main_dtype(items);
  set_token_ids(model.generation, model.tokenizer.get(), config);
  write_file(folder / "config.json",
             text_like(config, before.is_null() ? "" : model.vendor.at("config.json")));
  write_json(folder / "generation_config.json",
             generation_to_json(model.generation, model.tokenizer.get(),
                                vendor_json(model, "generation_config.json")));
  write_tokenizer(folder, model);
  write_vendor_files(folder.path(), model.vendor,
                     {"config.json", "generation_config.json", "gguf.json"});
  write_weights(folder, std::move(items), options.shard_bytes);
}

}  // namespace

std::vector<std::string> write_hugging_face(const StoredModel& model, const std::string& path,
                                            const SaveOptions& options) {
  if (!model.config)
    throw FileError(model.path, ": is no decoder, which is all that other programs' forms hold");
  const Family& family =
      family_for(*model.config, options.family.empty() ? model.vendor_family : options.family);
  FolderWriter folder(path);
  folder.fill([&] { write_hugging_face_files(model, family, options, folder); });
  folder.commit();
  if (!model.tokenizer) return {};
  const std::string warning = formats::tokenizer_warning(family.model_type, *model.tokenizer);
  return warning.empty() ? std::vector<std::string>() : std::vector{warning};
}

namespace {

/// The tensors as they are, for a model of which no more is known.
std::vector<PlannedTensor> all_tensors(const StoredModel& model) {
  std::vector<PlannedTensor> result;
  for (const StoredTensor& t : model.tensors->entries())
    result.push_back(
        {.name = t.name,
         .shape = t.shape,
         .dtype = t.dtype,
         .sources = {t.name},
         .make = [files = model.tensors, name = t.name] { return files->tensor(name); }});
  return result;
}

}  // namespace

namespace {

/// config.json of a model that came without one, as from GGUF, so that its family stays known;
/// empty where there is one or none can be.
std::string family_text(const StoredModel& model) {
  if (!model.config || model.vendor_family.empty() || model.vendor.count("config.json")) return "";
  try {
    return text_like(config_to_json(*model.config, family_of(model.vendor_family), Json()), "");
  } catch (const Error&) {  // what only GGUF says, as divisors of no scaling that has a name
    return "";
  }
}

}  // namespace

void write_belongings(const StoredModel& model, const std::string& folder) {
  if (model.tokenizer) {
    model.tokenizer->save(folder + "/tokenizer.json");
    // The ids that have a role, which tokenizer.json does not name.
    const auto given = model.vendor.find("tokenizer_config.json");
    if (given != model.vendor.end())
      write_file(folder + "/tokenizer_config.json", given->second);
    else if (model.config && !model.vendor.empty())
      write_json(
          folder + "/tokenizer_config.json",
          formats::tokenizer_config_json(*model.tokenizer, model.config->max_seq_len, Json()));
  }
  make_directories(folder + "/pretrained");
  write_vendor_files(folder + "/pretrained", model.vendor, {});
  if (const std::string text = family_text(model); !text.empty())
    write_file(folder + "/pretrained/config.json", text);
  if (!model.vendor.count("generation_config.json") && !model.generation.stop.empty())
    write_json(folder + "/pretrained/generation_config.json",
               generation_to_json(model.generation, model.tokenizer.get(), Json()));
}

void write_run(const StoredModel& model, const std::string& path, const SaveOptions& options) {
  FolderWriter folder(path);
  const bool same = model.form == ModelForm::run;
  const Ref<Module> module = same && folder_exists(model.path)
                                 ? load_unfilled(model.path)
                                 : Ref<Module>(DecoderModel(model.config.value()));
  const std::vector<PlannedTensor> planned =
      same ? all_tensors(model) : plan(model, names_here(model.config.value()));
  folder.fill([&] {
    save_architecture(*module, folder / "model.json");
    write_belongings(model, folder / "");
    for (const auto& [name, text] : options.files) write_file(folder / name, text);
    write_safetensors(folder / "model.safetensors", items_of(planned, model, options),
                      weights_metadata(*module));
  });
  folder.commit();
}

}  // namespace olm::nn::hub

namespace olm::nn {

void save_belongings(const Pretrained& model, const std::string& folder) {
  hub::write_belongings({.config = model.config,
                         .vendor_family = model.vendor_family,
                         .tokenizer = model.tokenizer,
                         .generation = model.generation,
                         .vendor = model.vendor},
                        folder);
}

}  // namespace olm::nn
