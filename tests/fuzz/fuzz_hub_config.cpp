// Any text as the config.json of another program: a configuration, which can be written again, or
// an Error, in memory that does not depend on the numbers in it.
#include <cstdint>
#include <string_view>

#include <olm/nn/hub/stored_internal.h>

using namespace olm;
using namespace olm::nn::hub;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Json json = Json::parse({reinterpret_cast<const char*>(data), size});
    const ReadConfig read = config_from_json(json);
    generation_from_json(json, json);
    config_to_json(read.config, family_of(read.family), json);
    for (const Family& family : families()) try {
        config_to_json(read.config, family, Json());
      } catch (const Error&) {}
  } catch (const Error&) {}
  return 0;
}
