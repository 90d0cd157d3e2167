// Any text as a model.json: either it describes a model that can be walked, or it is refused. What
// is an object is read as a whole file too, with the ties and frozen parameters it names.
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

#include <olm/nn/model_io.h>

namespace {

bool has_impossible_size(olm::nn::Module& model) { return model.num_parameters() == -1; }

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
    return has_impossible_size(*olm::nn::build(json));
  } catch (const olm::Error&) {
    return 0;
  }
}
