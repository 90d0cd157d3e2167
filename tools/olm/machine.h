#pragma once
// What this machine and this build are, for `olm doctor` and reports.
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/device.h>

namespace olm::tools {

/// Facts as (name, value), in the order to print them.
using Facts = std::vector<std::pair<std::string, std::string>>;
Facts machine_facts();

/// "cpu, 2 threads", "cuda:0, NVIDIA H200, 151 GB".
std::string device_text(Device device);

/// "1.5 GB", "340 MB", "12 kB".
std::string bytes_text(double bytes);
/// "2:05", "1:02:05", "0.8 s".
std::string duration_text(double seconds);
/// "12 ms", "0.8 s", "2:05".
std::string seconds_text(double seconds);
/// "2.3456"; "nan", whatever its sign.
std::string loss_text(double loss);
/// "1,234,567".
std::string grouped(int64_t value);
/// What to say of so many characters that a tokenizer left out.
std::string dropped_text(int64_t count);

}  // namespace olm::tools
