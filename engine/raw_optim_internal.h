#pragma once
// What the updates of engine/raw_optim.h and engine/raw_muon.h ask of their items.
#include <olm/engine/raw_optim.h>

namespace olm::raw {

/// The moments that an update reads and writes.
struct Moments {
  bool first = false, second = false;
};
/// Throws where an item lacks what an update needs, or does not fit `first`, the first of its
/// items.
void check_item(const char* op, const OptimItem& item, const OptimItem& first, Device device,
                Moments needed);

}  // namespace olm::raw
