// Any text as a model.json: either it describes a model that can be walked, or it is refused.
#include <cstdint>
#include <string_view>

#include <olm/nn/model_io.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const olm::Json json = olm::Json::parse({reinterpret_cast<const char*>(data), size});
    const auto model = olm::nn::build(json);
    return model->num_parameters() == -1;
  } catch (const olm::Error&) {
    return 0;
  }
}
