// Ranks that exchange tensors on cards, by NCCL. Each communicator has a stream of its own, beside
// the one that computes: it begins when what was launched before has run, and what is launched
// after Work::wait() begins when it has ended. The host waits for neither.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/cuda/card_internal.h>
#include <olm/engine/cuda/communicator_internal.h>
#include <olm/kernels/cuda/check.cuh>

namespace olm::cuda_backend {
namespace {

using namespace dist::detail;

/// A point in a stream.
class Event {
 public:
  Event() { OLM_CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t native() const { return event_; }
  void record(cudaStream_t stream) { OLM_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  void hold(cudaStream_t stream) const { OLM_CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0)); }
  bool reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    kernels::check_cuda(status, "cudaEventQuery");
    return true;
  }
  /// Seconds from this to a later point, both reached; less than 0 where that was earlier.
  double until(const Event& later) const {
    float milliseconds = 0;
    return cudaEventElapsedTime(&milliseconds, event_, later.event_) == cudaSuccess
               ? milliseconds * 1e-3
               : 0;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Where in the streams an operation began and ended, and where the one that computes waited.
struct Span {
  Event ready, began, ended, waited;
};

/// The latest operation of a process on each card, of whatever communicator. NCCL wants those of
/// several that share a card one behind the other, in an order that all ranks have: its kernels
/// keep their places on the card while they wait for others.
using Order = std::map<int, std::shared_ptr<Span>>;

class Lane;

/// An operation that was launched.
class Launched final : public Progress {
 public:
  Launched(std::shared_ptr<Lane> lane, Tensors kept)
      : lane_(std::move(lane)), kept_(std::move(kept)) {}
  bool done() override;
  void wait() override;

 private:
  friend class Lane;
  std::shared_ptr<Lane> lane_;  // until it has been waited for
  Tensors kept_;
  std::shared_ptr<Span> span_ = std::make_shared<Span>();
};

/// The communicator of one card, with its stream.
class Lane : public std::enable_shared_from_this<Lane> {
 public:
  Lane(int rank, int size, const nccl::UniqueId& id, int card, OtherFailure others,
       std::shared_ptr<Order> order);
  ~Lane();
  std::shared_ptr<Progress> start(const Exchange& exchange);
  std::shared_ptr<Progress> start_all_reduce(const Tensor& x, nccl::Type type);
  dist::Traffic traffic();

  /// What is launched next begins when an operation has ended.
  void hold_compute(const std::shared_ptr<Span>& span);
  /// Waits for what nobody has waited for.
  void end();
  void check() { communicator_->check(); }
  void use() const { card_.use(); }

 private:
  template <class F>
  std::shared_ptr<Progress> launch(Tensors kept, size_t bytes_sent, F&& work);
  void send_and_receive(const Exchange& exchange);
  void release_waited();
  void set_latest(std::shared_ptr<Span> span, bool is_launching);
  bool is_idle();
  void measure();

  Card& card_;
  CardAllocator scratch_;  // of kernels on this stream
  const int size_;
  const std::shared_ptr<Order> order_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Communicator> communicator_;
  std::list<std::shared_ptr<Launched>> launched_;  // not waited for
  std::deque<std::shared_ptr<Span>> spans_;        // waited for, to be measured
  dist::Traffic traffic_;
  std::mutex mutex_;  // of what follows, which the watch reads
  std::shared_ptr<Span> latest_;
  bool is_launching_ = false;
};

Lane::Lane(int rank, int size, const nccl::UniqueId& id, int card, OtherFailure others,
           std::shared_ptr<Order> order)
    : card_(cuda_backend::card(card)), scratch_(card), size_(size), order_(std::move(order)) {
  card_.use();
  communicator_ = std::make_unique<Communicator>(rank, size, id, card, std::move(others),
                                                 [this] { return is_idle(); });
  OLM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

Lane::~Lane() {
  // Kernels that wait for ranks that died return, since they are watched.
  cudaStreamSynchronize(stream_);
  communicator_.reset();
  cudaStreamDestroy(stream_);
  scratch_.empty_cache();
}

void Lane::set_latest(std::shared_ptr<Span> span, bool is_launching) {
  std::lock_guard lock(mutex_);
  latest_ = std::move(span);
  is_launching_ = is_launching;
}

bool Lane::is_idle() {
  card_.use();  // the watch's thread would open the first card to ask
  std::lock_guard lock(mutex_);
  return !is_launching_ && (!latest_ || latest_->ended.reached());
}

void Lane::send_and_receive(const Exchange& exchange) {
  if (exchange.sends.empty() && exchange.receives.empty()) return;
  const nccl::Functions& nccl = nccl::functions();
  communicator_->issue(exchange.name, [&](nccl::Handle comm) {
    nccl::Status status = nccl::Status::success;
    const auto keep = [&](nccl::Status s) {
      if (status == nccl::Status::success || status == nccl::Status::in_progress) status = s;
    };
    for (const Message& m : exchange.sends)
      keep(nccl.send(m.data, m.bytes, nccl::Type::u8, m.peer, comm, stream_));
    for (const Message& m : exchange.receives)
      keep(nccl.receive(m.data, m.bytes, nccl::Type::u8, m.peer, comm, stream_));
    return status;
  });
}

template <class F>
std::shared_ptr<Progress> Lane::launch(Tensors kept, size_t bytes_sent, F&& work) {
  card_.use();
  check();
  release_waited();
  if (spans_.size() > 64) measure();
  auto launched = std::make_shared<Launched>(shared_from_this(), std::move(kept));
  Span& span = *launched->span_;
  span.ready.record(static_cast<cudaStream_t>(card_.stream().native));
  span.ready.hold(stream_);
  std::shared_ptr<Span>& before = (*order_)[communicator_->card()];
  if (before) before->ended.hold(stream_);
  before = launched->span_;
  span.began.record(stream_);
  launched_.push_back(launched);
  set_latest(nullptr, true);
  try {
    work();
  } catch (...) {
    // What was launched before it uses the tensors still.
    cudaEventRecord(span.ended.native(), stream_);
    set_latest(launched->span_, false);
    throw;
  }
  span.ended.record(stream_);
  set_latest(launched->span_, false);
  ++traffic_.operations;
  traffic_.bytes_sent += int64_t(bytes_sent);
  return launched;
}

std::shared_ptr<Progress> Lane::start(const Exchange& exchange) {
  size_t bytes = 0;
  for (const Exchange* e = &exchange; e; e = e->next.get())
    for (const Message& m : e->sends) bytes += m.bytes;
  return launch(exchange.kept, bytes, [&] {
    kernels::Stream stream = card_.stream();
    stream.native = stream_;
    stream.source = &scratch_;
    for (const Exchange* e = &exchange; e; e = e->next.get()) {
      send_and_receive(*e);
      if (e->then) e->then(stream);
    }
  });
}

std::shared_ptr<Progress> Lane::start_all_reduce(const Tensor& x, nccl::Type type) {
  const size_t bytes = size_t(x.numel()) * size_of(x.dtype());
  return launch({x}, 2 * bytes * size_t(size_ - 1) / size_t(size_), [&] {
    void* data = x.mutable_data();
    communicator_->issue("all_reduce", [&](nccl::Handle comm) {
      return nccl::functions().all_reduce(data, data, size_t(x.numel()), type, nccl::Reduction::sum,
                                          comm, stream_);
    });
  });
}

void Lane::hold_compute(const std::shared_ptr<Span>& span) {
  card_.use();
  check();
  const auto compute = static_cast<cudaStream_t>(card_.stream().native);
  span->waited.record(compute);
  span->ended.hold(compute);
  spans_.push_back(span);
}

void Lane::release_waited() {
  std::erase_if(launched_, [](const std::shared_ptr<Launched>& each) {
    if (each->lane_ && each.use_count() == 1) each->wait();  // nobody else can
    return !each->lane_;
  });
}

void Lane::end() {
  try {
    for (const std::shared_ptr<Launched>& each : launched_) each->wait();
  } catch (const Error&) {
    cudaStreamSynchronize(stream_);  // nothing uses the tensors any more
  }
  launched_.clear();
}

void Lane::measure() {
  for (; !spans_.empty() && spans_.front()->ended.reached(); spans_.pop_front()) {
    const Span& span = *spans_.front();
    traffic_.seconds += span.began.until(span.ended);
    traffic_.waited_seconds += std::max(0.0, span.waited.until(span.ended));
  }
}

dist::Traffic Lane::traffic() {
  card_.use();
  measure();
  return traffic_;
}

bool Launched::done() {
  if (!lane_) return true;
  lane_->use();
  lane_->check();
  if (!span_->ended.reached()) return false;
  wait();
  return true;
}

void Launched::wait() {
  if (!lane_) return;
  lane_->hold_compute(span_);
  kept_.clear();
  lane_.reset();
}

/// What NCCL calls a dtype; null where it cannot add it.
std::optional<nccl::Type> type_of(DType dtype) {
  switch (dtype) {
    case f32:
      return nccl::Type::f32;
    case bf16:
      return nccl::Type::bf16;
    case f16:
      return nccl::Type::f16;
    case i32:
      return nccl::Type::i32;
    case i64:
      return nccl::Type::i64;
    case f64:
      return nccl::Type::f64;
    default:
      return {};
  }
}

/// Ranks whose tensors are on cards or in host memory.
class CardBackend final : public Backend {
 public:
  CardBackend(std::shared_ptr<Backend> host, std::shared_ptr<Order> order)
      : host_(std::move(host)), order_(std::move(order)) {}
  ~CardBackend() override {
    for (const auto& [card, lane] : lanes_) lane->end();
  }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void require_reach(const char* op, const Tensor& x) const override {
    if (x.device().kind != DeviceKind::cuda) host_->require_reach(op, x);
  }
  std::shared_ptr<Progress> start(Exchange exchange) override {
    const Device device = exchange.kept.at(0).device();
    if (device.kind != DeviceKind::cuda) return host_->start(std::move(exchange));
    return lane(device.index).start(exchange);
  }
  std::shared_ptr<Progress> start_all_reduce(const Tensor& x) override {
    if (x.device().kind != DeviceKind::cuda) return host_->start_all_reduce(x);
    const std::optional<nccl::Type> type = type_of(x.dtype());
    return type ? lane(x.device().index).start_all_reduce(x, *type) : nullptr;
  }
  void finish() override { end_communicators(); }
  std::shared_ptr<Backend> host() override { return host_; }
  std::vector<int64_t> used_numbers() const override { return host_->used_numbers(); }
  std::shared_ptr<Backend> group(const std::vector<int>& ranks, int64_t number) override {
    return std::make_shared<CardBackend>(host_->group(ranks, number), order_);
  }
  dist::Traffic traffic() const override;

 private:
  Lane& lane(int card);

  std::shared_ptr<Backend> host_;
  std::shared_ptr<Order> order_;
  std::map<int, std::shared_ptr<Lane>> lanes_;
};

dist::Traffic CardBackend::traffic() const {
  dist::Traffic all = host_->traffic();
  for (const auto& [card, lane] : lanes_) {
    const dist::Traffic more = lane->traffic();
    all.operations += more.operations;
    all.bytes_sent += more.bytes_sent;
    all.seconds += more.seconds;
    all.waited_seconds += more.waited_seconds;
  }
  return all;
}

/// Rank 0 makes the id by which ranks find each other. Says why not where a rank has no NCCL.
nccl::UniqueId agree_on_id(const dist::Comm& ranks) {
  std::string mine = nccl::why_not();
  nccl::UniqueId id = {};
  if (mine.empty() && ranks.rank() == 0 &&
      nccl::functions().get_unique_id(&id) == nccl::Status::success)
    mine = std::string(1, '\0') + std::string(id.bytes, sizeof id.bytes);
  const std::vector<std::string> all = ranks.all_gather(mine);
  for (size_t r = 0; r < all.size(); ++r)
    if (r > 0 ? !all[r].empty() : all[r].size() != 1 + sizeof id.bytes || all[r][0] != '\0')
      throw dist::CommError("ranks on cuda: rank ", r, ": ",
                            all[r].empty() ? "NCCL makes no id" : all[r]);
  std::memcpy(id.bytes, all[0].data() + 1, sizeof id.bytes);
  return id;
}

Lane& CardBackend::lane(int card) {
  if (const auto found = lanes_.find(card); found != lanes_.end()) return *found->second;
  // At the end of the process: before this rank leaves the others, and before CUDA ends.
  [[maybe_unused]] static const int registered =
      (cuda_backend::card(card), std::atexit(end_communicators));
  const nccl::UniqueId id = agree_on_id(dist::Comm(host_));
  auto lane = std::make_shared<Lane>(
      rank(), size(), id, card,
      [host = host_](const char* operation, double seconds) {
        return host->failure(operation, seconds);
      },
      order_);
  return *lanes_.emplace(card, std::move(lane)).first->second;
}

}  // namespace
}  // namespace olm::cuda_backend

namespace olm::dist::detail {

std::shared_ptr<Backend> with_cards(std::shared_ptr<Backend> host) {
  return std::make_shared<cuda_backend::CardBackend>(std::move(host),
                                                     std::make_shared<cuda_backend::Order>());
}

}  // namespace olm::dist::detail
