#pragma once
// Ranks as threads of one process, for tests of what ranks do together.
#include <cstdint>
#include <functional>

#include <olm/engine/comm.h>

namespace olm::test {

struct RankOptions {
  /// Messages arrive in an order drawn from this, whatever the order in which they were sent.
  uint64_t seed = 1;
  /// Up to so long after what they need is there: sent, and wanted.
  int delay_us = 50;
};

/// Calls f on `ranks` threads, each a rank of a Comm, and returns when all have. In a rank's thread
/// it is dist::world() too, and dist::fail(), ask_all_to_stop() and the like work between them. An
/// exception that leaves f on one rank ends the others by PeerError; the first is thrown here.
void run_ranks(int ranks, const std::function<void(const dist::Comm&)>& f,
               const RankOptions& options = {});

}  // namespace olm::test
