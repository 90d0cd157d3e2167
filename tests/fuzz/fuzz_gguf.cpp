// Any bytes as a GGUF file: either every value and tensor in it can be read, or it is refused.
#include <cstdint>
#include <string_view>

#include <olm/engine/gguf.h>

namespace {

/// What the value says, by every way to ask that does not refuse its kind.
size_t walk(const olm::GgufValue& value) {
  using olm::GgufKind;
  size_t total = value.describe().size();
  const bool array = value.kind() == GgufKind::array;
  if (value.item_kind() == GgufKind::string) {
    if (!array) return total + value.as_string().size();
    for (const std::string_view text : value.as_strings())
      for (const char c : text) total += size_t(c);
    return total;
  }
  if (value.item_kind() == GgufKind::boolean)
    return total + (array ? value.as_bools().size() : size_t(value.as_bool()));
  total += array ? value.as_doubles().size() : size_t(value.as_double() > 0);
  if (value.item_kind() == GgufKind::f32 || value.item_kind() == GgufKind::f64) return total;
  try {
    total += array ? value.as_ints().size() : size_t(value.as_int());
  } catch (const olm::FileError&) {  // an integer above int64's
  }
  return total;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = olm::GgufFile::parse({reinterpret_cast<const char*>(data), size}, "input");
    size_t total = 0;
    for (const std::string& key : file.keys()) total += walk(file.at(key));
    for (const olm::GgufEntry& entry : file.entries()) {
      for (const std::byte b : file.bytes(entry.name)) total += size_t(b);
      if (!olm::gguf_type(uint32_t(entry.type))) continue;
      const olm::Tensor tensor = file.tensor(entry.name);
      if (tensor.dtype() == olm::f32)
        for (int64_t i = 0; i < tensor.numel(); ++i) total += tensor.data<float>()[i] > 0;
    }
    return total == SIZE_MAX;
  } catch (const olm::Error&) {
    return 0;
  }
}
