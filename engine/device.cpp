#include <olm/engine/device.h>

#include <olm/engine/backend_internal.h>

#include <charconv>
#include <ostream>

namespace olm {

std::ostream& operator<<(std::ostream& out, Device device) {
  out << device.kind;
  if (device.kind == DeviceKind::cuda) out << ':' << device.index;
  return out;
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return cpu;
  if (text == "meta") return meta;
  if (text == "cuda") return cuda(0);
  if (text.starts_with("cuda:")) {
    int index = -1;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + 5, end, index);
    if (error == std::errc() && stop == end && index >= 0) return cuda(index);
  }
  fail("device: unknown device \"", text, "\"; wanted cpu, meta or cuda:N");
}

void require_device(Device device) {
  if (device.kind == DeviceKind::cuda) return cuda_backend::require_card(device.index);
  require(device.index == 0, "device: ", device.kind, " has no index ", device.index);
}

}  // namespace olm
