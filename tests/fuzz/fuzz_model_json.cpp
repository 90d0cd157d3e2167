// Any text as a model.json: either it describes a model that can be walked, or it is refused. What
// is an object is read as a whole file too, with the ties and frozen parameters it names. A model
// has a short form, which describes the same one, and shapes that fit or are refused.
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

#include <olm/nn/cost.h>
#include <olm/nn/model_io.h>

namespace {

bool has_impossible_size(olm::nn::Module& model) { return model.num_parameters() == -1; }

/// Throws, or ends the process where the short form describes something else.
bool is_wrong(olm::nn::Module& model) {
  const olm::Json description = olm::nn::describe(model);
  if (description.dump().size() > 20000) return has_impossible_size(model);
  const auto again = olm::nn::build(olm::nn::shortened(description), {.vocab_size = 3});
  if (!(olm::nn::describe(*again) == description)) __builtin_trap();
  olm::nn::trace(model, 1, 2);
  return has_impossible_size(model);
}

bool read_as_file(olm::Json json) {
  static const std::string path = "/tmp/olm_fuzz_" + std::to_string(::getpid()) + ".json";
  json["format"] = "libolm model";
  json["version"] = 1;
  std::ofstream(path) << json.dump();
  const auto model = olm::nn::load_architecture(path);
  return has_impossible_size(*model);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const olm::Json json = olm::Json::parse({reinterpret_cast<const char*>(data), size});
    if (json.contains("model")) return read_as_file(json);
    return is_wrong(*olm::nn::build(json, {.vocab_size = 3}));
  } catch (const olm::Error&) {
    return 0;
  }
}
