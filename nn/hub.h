#pragma once
// Models of other programs: folders of Hugging Face's transformers and GGUF files, both ways.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <olm/nn/decoder.h>
#include <olm/nn/text.h>

namespace olm::nn {

/// How a model lies on the disk: a run folder of this library (model.json), a folder of Hugging
/// Face's transformers (config.json), or a GGUF file.
enum class ModelForm : uint8_t { run, hugging_face, gguf };
OLM_API const char* name_of(ModelForm form);
/// The form of what lies at `path`. Throws FileError saying what is there and what was wanted.
OLM_API ModelForm form_of(const std::string& path);

/// What a vendor says of sampling: generation_config.json, or a run's own.
struct GenerationSettings {
  std::vector<int32_t> stop = {};  ///< ids that end a text, of all files and the tokenizer together
  std::optional<double> temperature = {}, top_p = {}, min_p = {}, repetition_penalty = {};
  std::optional<int64_t> top_k = {};
  std::optional<bool> do_sample = {};  ///< false: the likeliest token
};

/// Files that belong to a model and that this library does not compute with, by name, as they were:
/// config.json, generation_config.json, tokenizer_config.json, special_tokens_map.json,
/// chat_template.jinja, gguf.json.
/// Exporting writes them back with what is understood brought up to date.
using VendorFiles = std::map<std::string, std::string>;

/// A model with what belongs to it.
struct Pretrained {
  Ref<Module> model = {};
  /// Empty for a model that is no decoder.
  std::optional<DecoderConfig> config = {};
  std::shared_ptr<const Tokenizer> tokenizer = {};  ///< null where there is none
  GenerationSettings generation = {};
  std::string vendor_family = {};  ///< model_type of config.json; "" where there is none
  VendorFiles vendor = {};
  /// What stands in the files and is kept, but has no meaning here: "config.json: use_cache".
  std::vector<std::string> not_understood = {};
};

struct LoadPretrainedOptions {
  Device device = cpu;
  /// Of parameters; that of the file where empty. Where that is bf16 or f16, so is Context::dtype.
  std::optional<DType> dtype = {};
};

/// A model of any of the three forms. Quantised weights become f32. Throws FileError, in one
/// sentence, for what is not understood and would change numbers, for tensors that are missing,
/// surplus or of another shape (all of them listed), and for damaged files.
OLM_API Pretrained load_pretrained(const std::string& path,
                                   const LoadPretrainedOptions& options = {});

/// What the files of a model say, before any weight is read.
struct PretrainedFacts {
  struct TensorFacts {
    std::string name;
    std::string type;  ///< as the file calls it: "BF16", "Q4_K"
    Shape shape = {};
    int64_t bytes = 0;
  };
  ModelForm form = ModelForm::run;
  /// Empty for a model that is no decoder.
  std::optional<DecoderConfig> config = {};
  std::shared_ptr<const Tokenizer> tokenizer = {};  ///< null where there is none
  GenerationSettings generation = {};
  std::string vendor_family = {};
  VendorFiles vendor = {};
  std::vector<std::string> not_understood = {};
  std::vector<TensorFacts> tensors = {};  ///< in the order of their data
  /// The type that most of the numbers have.
  OLM_API std::string main_type() const;
};
/// Throws where load_pretrained() does, but for damaged weights. Takes no longer for a large model.
OLM_API PretrainedFacts inspect_pretrained(const std::string& path);

struct SaveOptions {
  /// Of the weights; as they are where empty. GGUF's "q8_0" is written by save_gguf alone.
  std::optional<std::string> type = {};
  int64_t shard_bytes = int64_t(5) << 30;  ///< most bytes of tensors in one safetensors file
  /// model_type of config.json; where empty that of vendor_family, else the first that can say what
  /// the model is.
  std::string family = {};
  std::string name = {};  ///< GGUF's general.name; the folder's where empty
  /// Texts by name of files that convert_to_run() writes beside its own.
  std::map<std::string, std::string> files = {};
  /// Asked before each tensor; true ends it with an Error, and nothing is left behind.
  std::function<bool()> should_stop = {};
};

/// Writes a folder that transformers opens: config.json, generation_config.json, safetensors,
/// tokenizer.json, tokenizer_config.json. `folder` must not exist; it appears whole or not at all.
/// Throws naming the option that no family of transformers has. Returns sentences for the user
/// where transformers will read it in another way, none for most models.
OLM_API std::vector<std::string> save_pretrained(const Pretrained& model, const std::string& folder,
                                                 const SaveOptions& options = {});
/// Writes a GGUF file that llama.cpp opens. Likewise. Returns what llama.cpp computes in another
/// way than this library, though the file says it: sentences for the user, none for most models.
OLM_API std::vector<std::string> save_gguf(const Pretrained& model, const std::string& path,
                                           const SaveOptions& options = {});

/// Writes into a run folder what belongs to a model of another program beside weights and layers:
/// tokenizer.json, tokenizer_config.json, and the vendor's files in pretrained/, where config.json
/// says the family of a model of a GGUF file.
OLM_API void save_belongings(const Pretrained& model, const std::string& folder);

/// From files to files, one tensor at a time: memory does not grow with the model. `to` must not
/// exist.
OLM_API void convert_to_run(const std::string& from, const std::string& to,
                            const SaveOptions& options = {});
OLM_API std::vector<std::string> convert_to_hugging_face(const std::string& from,
                                                         const std::string& to,
                                                         const SaveOptions& options = {});
OLM_API std::vector<std::string> convert_to_gguf(const std::string& from, const std::string& to,
                                                 const SaveOptions& options = {});

/// How far two models are apart.
struct Comparison {
  int64_t texts = 0, texts_with_other_ids = 0;
  int64_t texts_refused = 0;      ///< by one tokenizer or both; they have no ids to compare
  std::string first_other = {};   ///< the first text whose ids differ; "" for none
  int64_t places = 0;             ///< whose logits were compared
  double largest_logit = 0;       ///< of the first model, in magnitude
  double largest_difference = 0;  ///< of logits at equal places
  double same_likeliest = 1;      ///< share of places where both find the same token likeliest
};
/// Runs both on `texts` in f32, each with its own tokenizer; logits are compared on the ids of the
/// first, as far as both contexts reach, and of the ids that both have. The parameters of both are
/// f32; throws where one has no tokenizer.
OLM_API Comparison compare(const Pretrained& a, const Pretrained& b,
                           const std::vector<std::string>& texts);

}  // namespace olm::nn
