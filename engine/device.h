#pragma once
// Devices by name.
#include <iosfwd>
#include <string_view>

#include <olm/kernels/base/types.h>

namespace olm {

/// A device: its kind and, where a machine has several, its index.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device cpu{DeviceKind::cpu, 0};
/// Shapes without memory: models of any size can be built, counted and described there.
inline constexpr Device meta{DeviceKind::meta, 0};
constexpr Device cuda(int index = 0) { return {DeviceKind::cuda, index}; }

/// Prints `cpu`, `meta`, `cuda:0`.
OLM_API std::ostream& operator<<(std::ostream&, Device);
/// Reads what operator<< prints; `cuda` means `cuda:0`. Throws for anything else.
OLM_API Device parse_device(std::string_view text);
/// Throws unless this build and machine have `device`.
OLM_API void require_device(Device device);

}  // namespace olm
