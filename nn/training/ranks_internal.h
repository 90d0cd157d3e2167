#pragma once
// What the ranks of a training tell each other beside gradients.
#include <string>
#include <type_traits>

#include <olm/engine/comm.h>
#include <olm/nn/parallel/bytes_internal.h>

namespace olm::nn::ranks {

using parallel::ByteReader, parallel::ByteWriter;

/// True on all ranks where it is on one.
bool on_any_rank(const dist::Comm& comm, bool mine);

/// What rank 0 makes, on all ranks. Where that throws all do.
template <class Make>
auto of_first_rank(const dist::Comm& comm, Make&& make) {
  using T = decltype(make());
  static_assert(std::is_trivially_copyable_v<T>);
  if (comm.size() == 1) return make();
  const std::string bytes = dist::all_gather_of(comm, [&] {
    ByteWriter writer;
    if (comm.rank() == 0) writer.put(make());
    return writer.take();
  })[0];
  return ByteReader(bytes).get<T>();
}

/// Tells the other ranks of an error that is thrown here, so that none waits for this one.
void tell_failure(const dist::Comm& comm);
template <class Act>
auto or_fail(const dist::Comm& comm, Act&& act) {
  try {
    return act();
  } catch (...) {
    tell_failure(comm);
    throw;
  }
}

}  // namespace olm::nn::ranks
