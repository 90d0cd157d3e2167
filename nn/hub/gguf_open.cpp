// Opens models in GGUF files.
#include <olm/nn/hub/gguf_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::hub {

namespace {

class GgufSource final : public TensorSource {
 public:
  explicit GgufSource(GgufFile file) : file_(std::move(file)) {
    std::string others;
    for (const GgufEntry& e : file_.entries()) {
      const uint32_t number = uint32_t(e.type);
      if (!gguf_type(number))
        others += (others.empty() ? "" : ", ") + e.name + " (" + gguf_type_name(number) + ")";
      const DType dtype = e.type == GgufType::f16 ? f16 : e.type == GgufType::bf16 ? bf16 : f32;
      entries_.push_back({.name = e.name,
                          .type = gguf_type_name(number),
                          .dtype = dtype,
                          .shape = e.shape,
                          .bytes = int64_t(e.bytes)});
    }
    if (!others.empty())
      throw FileError(file_.path(), ": tensors of types that are not read: ", others,
                      "; F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are");
  }
  const std::vector<StoredTensor>& entries() const override { return entries_; }
  Tensor tensor(const std::string& name) const override { return file_.tensor(name); }
  void release(const std::string& name) const override { file_.release(name); }

 private:
  GgufFile file_;
  std::vector<StoredTensor> entries_;
};

bool starts_with_any(const std::string& key, const std::vector<const char*>& begins) {
  for (const char* begin : begins)
    if (key.starts_with(begin)) return true;
  return false;
}

/// Keys to be written again: what is said of the model beside how it computes, and what is not
/// understood.
std::vector<std::string> kept_keys(const GgufFile& file, const std::vector<std::string>& unknown) {
  std::vector<std::string> keys;
  for (const std::string& key : file.keys())
    if (key.starts_with("general.") &&
        !starts_with_any(key, {"general.architecture", "general.alignment", "general.file_type",
                               "general.quantization_version", "general.type"}))
      keys.push_back(key);
  keys.insert(keys.end(), unknown.begin(), unknown.end());
  return keys;
}

/// Vocabulary, ids that end a text, and chat template.
void read_vocabulary(const GgufFile& file, StoredModel& model) {
  const GgufValue* kind = file.find("tokenizer.ggml.model");
  if (!kind || kind->as_string() == "none" || kind->as_string() == "no_vocab") return;
  const formats::Vocabulary vocabulary = formats::read_gguf_vocabulary(file);
  model.tokenizer = formats::make_tokenizer(vocabulary);
  model.generation.stop = vocabulary.stop;
  if (!vocabulary.chat_template.empty())
    model.vendor["chat_template.jinja"] = vocabulary.chat_template;
  const int64_t ids = model.tokenizer->vocab_size(), rows = model.config->vocab_size;
  if (ids > rows)
    throw FileError(file.path(), ": the vocabulary has ", ids,
                    " ids, but token_embd.weight has only ", rows, " rows");
}

}  // namespace

StoredModel open_gguf(const std::string& path) try {
  const GgufFile file = GgufFile::open(path);
  const ReadConfig read = config_from_gguf(file);
  StoredModel model{.form = ModelForm::gguf,
                    .path = path,
                    .config = read.config,
                    .vendor_family = read.family,
                    .names = family_of(read.family).gguf_names,
                    .tensors = std::make_shared<GgufSource>(file)};
  check_tensors(model);
  read_vocabulary(file, model);
  const std::vector<std::string> keys = kept_keys(file, read.not_understood);
  if (!keys.empty()) model.vendor["gguf.json"] = values_to_json(file, keys).dump(2) + "\n";
  for (const std::string& key : read.not_understood)
    model.not_understood.push_back("gguf.json: " + key);
  return model;
} catch (const FileError&) {
  throw;
} catch (const Error& error) {
  throw FileError(path, ": ", error.what());
}

}  // namespace olm::nn::hub
