#pragma once
// A model as it lies in files: headers read, tensors handed out one at a time.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <olm/nn/hub/names_internal.h>

namespace olm::nn::hub {

/// What a file's header says of a tensor.
struct StoredTensor {
  std::string name;
  std::string type;   ///< as the file calls it: "BF16", "Q4_K"
  DType dtype = f32;  ///< that tensor() gives
  Shape shape = {};
  int64_t bytes = 0;  ///< in the file
};

/// Tensors by name, in files or in memory.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// In the order of their data.
  virtual const std::vector<StoredTensor>& entries() const = 0;
  /// On the CPU. Aliases a mapped file where nothing has to be decoded.
  virtual Tensor tensor(const std::string& name) const = 0;
  /// The pages of a tensor are not needed again: a mapped file gives them back.
  virtual void release(const std::string&) const {}
};

/// A model opened: what its files say, before any weight is read.
struct StoredModel {
  ModelForm form = ModelForm::run;
  std::string path = {};
  std::optional<DecoderConfig> config = {};  ///< complete; empty for a run that is no decoder
  std::string vendor_family = {};            ///< row of families(); "" for a run without
  Names names = {};                          ///< of the tensors
  std::shared_ptr<const TensorSource> tensors = {};
  std::shared_ptr<const Tokenizer> tokenizer = {};
  GenerationSettings generation = {};
  VendorFiles vendor = {};
  std::vector<std::string> not_understood = {};
};

/// The key of the largest count; of none the first there is.
template <class Key>
Key largest_of(const std::map<Key, int64_t>& counts) {
  const auto at = std::max_element(counts.begin(), counts.end(),
                                   [](auto& a, auto& b) { return a.second < b.second; });
  return at == counts.end() ? Key() : at->first;
}

/// Opens any of the three forms. open_hugging_face also checks names, shapes and dtypes of all
/// tensors against the configuration, as open_gguf does.
StoredModel open_model(const std::string& path);
/// Its shards, or its one file, with all tensors but those whose names end in one of `ignored`.
std::shared_ptr<const TensorSource> open_safetensors(const std::string& folder,
                                                     const std::vector<std::string>& ignored = {});
/// Tensors in memory, in this order.
std::shared_ptr<const TensorSource> tensors_in_memory(const std::vector<NamedTensor>& tensors);
StoredModel open_hugging_face(const std::string& folder);
StoredModel open_gguf(const std::string& path);
StoredModel open_run(const std::string& folder);
/// The same of a model in memory.
StoredModel stored(const Pretrained& model);

/// Whether the files hold a tensor at least for each layer and each of its experts: else a
/// configuration is not worth the memory of its layers.
bool may_hold(const TensorSource& files, const DecoderConfig& config);
/// Throws FileError listing the tensors that are missing, surplus, of another shape or of no float
/// type, given the model's configuration and names.
void check_tensors(const StoredModel& model);

/// A tensor of a form that is to be written, and how it is made.
struct PlannedTensor {
  std::string name;
  Shape shape = {};
  DType dtype = f32;  ///< that make() gives: the source's, or f32 where computed
  std::vector<std::string> sources = {};  ///< tensors it is made of
  std::function<Tensor()> make = {};      ///< aliases a single source that needs no change
};
/// The tensors of a model under the names of another form, in that form's order. Throws FileError
/// as check_tensors() does, and for parts that the other form has no place for. A head that is tied
/// is left out, also where it is stored beside the embedding.
std::vector<PlannedTensor> plan(const StoredModel& from, const Names& to);

/// config.json to a configuration and back (nn/hub/config.cpp).
struct ReadConfig {
  DecoderConfig config = {};  ///< complete
  std::string family = {};    ///< row of families()
  std::vector<std::string> not_understood = {};
};
/// Throws Error naming the key for what would change numbers and is not known.
ReadConfig config_from_json(const Json& config);
/// config.json of a family: `before` (null, or what the vendor wrote) with all that is understood
/// brought up to date. Throws Error naming the first option that the family has no key for.
Json config_to_json(const DecoderConfig& config, const Family& family, const Json& before);
/// The family that a model is exported as: `wanted`, or the first that can say what it is; throws
/// Error saying which option has no counterpart.
const Family& family_for(const DecoderConfig& config, const std::string& wanted);

/// The stop set and sampling of generation_config.json and config.json together.
GenerationSettings generation_from_json(const Json& generation_config, const Json& config);
Json generation_to_json(const GenerationSettings& settings, const Tokenizer* tokenizer,
                        const Json& before);
/// The same ids in config.json, where it has none or others.
void set_token_ids(const GenerationSettings& settings, const Tokenizer* tokenizer, Json& config);
/// The text of an object; members that it shares with the text `before` ("" for none) are written
/// as they stand there, numbers digit by digit.
std::string text_like(const Json& object, const std::string& before);

/// Write a model in a form; write_gguf() returns what save_gguf() does.
std::vector<std::string> write_hugging_face(const StoredModel& model, const std::string& folder,
                                            const SaveOptions& options);
std::vector<std::string> write_gguf(const StoredModel& model, const std::string& path,
                                    const SaveOptions& options);
/// What a run folder holds beside its model and weights.
void write_belongings(const StoredModel& model, const std::string& folder);
void write_run(const StoredModel& model, const std::string& folder, const SaveOptions& options);

}  // namespace olm::nn::hub
