#include <fmt/format.h>

#include <olm/engine/comm.h>

#include "tools/olm/commands.h"
#include "tools/olm/machine.h"

namespace olm::tools {

int doctor() {
  Facts facts = machine_facts();
  facts.emplace_back("ranks", dist::describe());
  for (const auto& [name, value] : facts) fmt::print("{:<17} {}\n", name, value);
  return 0;
}

}  // namespace olm::tools
