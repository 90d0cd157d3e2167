#pragma once
// The part of a report about mixtures of experts.
#include <string>
#include <vector>

#include <olm/engine/json.h>

namespace olm::tools {

/// How evenly experts were used, from lines of metrics: curves of the balance and of auxiliary
/// losses, and the load of every expert at the last line that has it. Empty for other models.
std::string expert_section(const std::vector<Json>& metrics);

}  // namespace olm::tools
