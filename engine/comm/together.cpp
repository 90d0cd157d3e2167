// What all ranks do at once, or none has done: errors of one become errors of all.
#include <exception>

#include <olm/engine/comm.h>

namespace olm::dist {

namespace {
constexpr char kDone = '+', kFailed = '-';
}  // namespace

std::vector<std::string> all_gather_of(const Comm& comm, const std::function<std::string()>& make) {
  if (comm.size() == 1) return {make()};
  std::string said;
  std::exception_ptr own;
  try {
    said = kDone + make();
  } catch (const CommError&) {  // the others see it too, and an exchange would fail again
    throw;
  } catch (const std::exception& error) {
    own = std::current_exception();
    said = kFailed + std::string(error.what());
  }
  std::vector<std::string> all;
  try {
    all = comm.all_gather(said);
  } catch (const CommError&) {  // another may have ended by what it read of this one
    if (own) std::rethrow_exception(own);
    throw;
  }
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].front() == kDone) continue;
    if (int(rank) == comm.rank()) std::rethrow_exception(own);
    throw PeerError("rank ", rank, ": ", all[rank].substr(1));
  }
  for (std::string& text : all) text.erase(0, 1);
  return all;
}

void together(const Comm& comm, const std::function<void()>& act) {
  all_gather_of(comm, [&] {
    act();
    return std::string();
  });
}

}  // namespace olm::dist
