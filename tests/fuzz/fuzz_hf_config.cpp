// Any text as a config.json of Hugging Face's transformers: either it is a configuration of which a
// model can be made, and which is written back with every key as it was, or it is refused.
#include <cstdint>
#include <string>
#include <string_view>

#include <olm/nn/hub/stored_internal.h>

namespace {

using namespace olm;
using namespace olm::nn::hub;

/// The keys of `before` are there in their order and with their values.
bool kept(const Json& before, const Json& after) {
  if (after.size() < before.size()) return false;
  for (size_t i = 0; i < before.size(); ++i) {
    const auto& [key, value] = before.members()[i];
    const auto& other = after.members()[i];
    const bool named = key == "architectures";  // null there is filled
    // Of a RoPE that is said in rope_parameters alone, nulls of the other spelling are filled.
    if (key != other.first || (!named && !value.is_null() && !(value == other.second)))
      return false;
  }
  return true;
}

void read(const std::string& text) {
  const Json json = Json::parse(text);
  generation_from_json(json, json);
  const ReadConfig read = config_from_json(json);
  const Json written = config_to_json(read.config, family_of(read.family), json);
  if (!kept(json, written)) __builtin_trap();
  if (!(Json::parse(text_like(written, text)) == written)) __builtin_trap();
  if (read.config.num_layers * (1 + read.config.num_experts.value_or(0)) <= 64)
    olm::nn::DecoderModel(read.config);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    read({reinterpret_cast<const char*>(data), size});
  } catch (const olm::Error&) {}
  return 0;
}
