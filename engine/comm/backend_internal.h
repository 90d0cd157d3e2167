#pragma once
// What a transport does: it carries messages. What ranks send each other is decided in comm.cpp,
// once for all transports; every operation is one exchange, or two.
#include <functional>
#include <memory>
#include <vector>

#include <olm/engine/comm.h>

namespace olm::dist::detail {

/// Bytes to or from another rank, in the transport's memory.
struct Message {
  int peer = 0;
  void* data = nullptr;
  size_t bytes = 0;
};

/// Messages that travel at the same time; those between two ranks arrive in the order given.
struct Exchange {
  const char* name = "";            ///< of the operation, for errors
  std::vector<Message> sends = {};  ///< none to the rank itself
  std::vector<Message> receives = {};
  Tensors kept = {};                ///< alive until it is done
  std::function<void()> then = {};  ///< done with what arrived: computes, or is empty
};

/// What becomes of an exchange.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual bool done() = 0;
  virtual void wait() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Throws unless x is where this transport reaches.
  virtual void require_reach(const char* op, const Tensor& x) const = 0;
  /// Begins; `then` runs once all has arrived and been sent, on a thread of the transport or in
  /// wait(), before Progress::done().
  virtual std::shared_ptr<Progress> start(Exchange exchange) = 0;
  /// x becomes the sum over ranks, in an order of the transport's choice.
  virtual std::shared_ptr<Progress> start_all_reduce(const Tensor& x) = 0;
  virtual std::shared_ptr<Backend> group(const std::vector<int>& ranks) = 0;
  virtual Traffic traffic() const = 0;
};

}  // namespace olm::dist::detail
