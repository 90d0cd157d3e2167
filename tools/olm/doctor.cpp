#include <fmt/format.h>

#include "tools/olm/commands.h"
#include "tools/olm/machine.h"

namespace olm::tools {

int doctor() {
  for (const auto& [name, value] : machine_facts()) fmt::print("{:<17} {}\n", name, value);
  return 0;
}

}  // namespace olm::tools
