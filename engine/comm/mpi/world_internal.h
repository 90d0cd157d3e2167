#pragma once
// The ranks that a launcher started, over Open MPI.
#include <memory>

#include <olm/engine/comm/backend_internal.h>

namespace olm::dist::detail {

/// Joins them; null where this process was started alone. Throws CommError.
std::shared_ptr<World> join_mpi(const Options& options);
/// The library that would carry messages, with its version; throws CommError where there is none.
std::string describe_mpi();

}  // namespace olm::dist::detail
