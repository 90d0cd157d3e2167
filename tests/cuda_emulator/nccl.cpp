// NCCL of the emulator: operations queued on streams, which travel between ranks on this machine.
// Communicators are never blocking. What arrives replaces NaN; a rank that dies is not noticed, as
// with the library, before the others abort.
#include <sys/types.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <random>
#include <string>

#include <olm/engine/cuda/nccl_internal.h>
#include <olm/kernels/base/types.h>
#include <tests/cuda_emulator/api_call.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/mesh.h>
#include <tests/cuda_emulator/report.h>

namespace nccl = olm::cuda_backend::nccl;
using namespace olm::cuda_emulator;
using nccl::Status;

struct ncclComm {
  ncclComm(const std::string& name, int of_rank, int of_size, int on_device)
      : rank(of_rank),
        size(of_size),
        device(on_device),
        about(std::to_string(getpid()) + " " + std::to_string(on_device)),
        mesh(name, of_rank, of_size, about) {}
  int rank, size, device;
  std::string about;
  Mesh mesh;
  std::deque<RankWork*> queue = {};  ///< in the order of calls
  bool aborted = false;
  Status status = Status::in_progress;
};

namespace {

std::map<ncclComm*, std::shared_ptr<ncclComm>>& comms =
    *new std::map<ncclComm*, std::shared_ptr<ncclComm>>;
thread_local std::string last_error_text;

Status refuse(Status status, std::string why) {
  last_error_text = std::move(why);
  return status;
}

struct Part {
  int peer;
  char* data;
  size_t bytes;
};

/// What one group asks of one communicator on one stream.
class Exchange final : public RankWork {
 public:
  explicit Exchange(std::shared_ptr<ncclComm> comm) : comm_(std::move(comm)) {
    comm_->queue.push_back(this);
  }
  ~Exchange() override { std::erase(comm_->queue, this); }
  bool step() override;

  std::vector<Part> sends, receives;
  /// Called instead of a copy to where parts are received, with all of them.
  std::function<void(const std::vector<std::vector<char>>&)> land;

 private:
  void begin();
  bool take();
  void finish();

  std::shared_ptr<ncclComm> comm_;
  std::vector<std::vector<char>> arrived_;
  std::vector<bool> there_;  ///< which parts are
  bool begun_ = false, done_ = false;
};

void Exchange::begin() {
  begun_ = true;
  for (const Part& part : sends) comm_->mesh.send(part.peer, part.data, part.bytes);
  arrived_.resize(receives.size());
  there_.assign(receives.size(), false);
  if (!land)
    for (const Part& part : receives) std::memset(part.data, 0xff, part.bytes);
}

/// Takes messages that are there; true once all are.
bool Exchange::take() {
  bool all = true;
  std::vector<bool> waiting(size_t(comm_->size), false);  // for an earlier part of the same rank
  for (size_t i = 0; i < receives.size(); ++i) {
    const Part& part = receives[i];
    if (there_[i]) continue;
    if (waiting[size_t(part.peer)] || !comm_->mesh.receive(part.peer, arrived_[i])) {
      waiting[size_t(part.peer)] = true;
      all = false;
      continue;
    }
    there_[i] = true;
    if (arrived_[i].size() == part.bytes) continue;
    set_last_failure("rank " + std::to_string(part.peer) + " sends " +
                     std::to_string(arrived_[i].size()) + " bytes where rank " +
                     std::to_string(comm_->rank) + " receives " + std::to_string(part.bytes));
    fail_device(comm_->device, cudaErrorLaunchFailure);
    return false;
  }
  return all;
}

void Exchange::finish() {
  const OpenDevice open(comm_->device);
  if (land) land(arrived_);
  if (!land)
    for (size_t i = 0; i < receives.size(); ++i)
      std::memcpy(receives[i].data, arrived_[i].data(), receives[i].bytes);
  done_ = true;
  std::erase(comm_->queue, this);
}

bool Exchange::step() {
  if (done_ || comm_->aborted) return true;
  if (comm_->queue.front() != this) return false;
  if (!begun_) {
    const OpenDevice open(comm_->device);
    begin();
  }
  comm_->mesh.progress();
  if (!take() || !comm_->mesh.all_sent()) return false;
  finish();
  return true;
}

// ---- groups -------------------------------------------------------------------------------------
struct Group {
  int depth = 0;
  std::map<std::pair<ncclComm*, cudaStream_t>, std::shared_ptr<Exchange>> exchanges;
};
thread_local Group group;

Status end_group() {
  if (--group.depth > 0) return Status::success;
  const auto exchanges = std::exchange(group.exchanges, {});
  for (const auto& [key, exchange] : exchanges) {
    const cudaError_t error = with_stream(key.second, [&, &work = exchange](CUstream_st& found) {
      for (const std::vector<Part>* parts : {&work->sends, &work->receives})
        for (const Part& part : *parts)
          if (part.data && !is_allocated(part.data, part.bytes)) return cudaErrorInvalidValue;
      enqueue_for_ranks(found, work);
      return cudaSuccess;
    });
    if (error != cudaSuccess)
      return refuse(Status::invalid_argument, "a message is not in device memory");
  }
  return exchanges.empty() ? Status::success : Status::in_progress;
}

/// Calls f(exchange) with that of the group; a call outside a group is one of its own.
template <class F>
Status in_group(nccl::Handle handle, cudaStream_t stream, F&& f) {
  {
    std::lock_guard lock(api_mutex());
    const auto found = comms.find(handle);
    if (found == comms.end() || found->second->status != Status::success)
      return refuse(Status::invalid_argument, "the communicator is not ready");
    std::shared_ptr<Exchange>& exchange = group.exchanges[{handle, stream}];
    if (!exchange) exchange = std::make_shared<Exchange>(found->second);
    ++group.depth;
    f(*exchange);
  }
  return end_group();
}

size_t bytes_of(nccl::Type type) {
  switch (type) {
    case nccl::Type::u8:
      return 1;
    case nccl::Type::f16:
    case nccl::Type::bf16:
      return 2;
    case nccl::Type::i32:
    case nccl::Type::f32:
      return 4;
    case nccl::Type::i64:
    case nccl::Type::f64:
      return 8;
  }
  return 0;
}

Status send(const void* data, size_t count, nccl::Type type, int peer, nccl::Handle handle,
            cudaStream_t stream) {
  return in_group(handle, stream, [&](Exchange& exchange) {
    exchange.sends.push_back(
        {peer, static_cast<char*>(const_cast<void*>(data)), count * bytes_of(type)});
  });
}
Status receive(void* data, size_t count, nccl::Type type, int peer, nccl::Handle handle,
               cudaStream_t stream) {
  return in_group(handle, stream, [&](Exchange& exchange) {
    exchange.receives.push_back({peer, static_cast<char*>(data), count * bytes_of(type)});
  });
}

// ---- sums ---------------------------------------------------------------------------------------
template <class T>
void add(char* to, const char* from, size_t count) {
  using Wide = std::conditional_t<(sizeof(T) > 2), T, float>;
  for (size_t i = 0; i < count; ++i) {
    T a, b;
    std::memcpy(&a, to + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    a = T(Wide(a) + Wide(b));
    std::memcpy(to + i * sizeof(T), &a, sizeof(T));
  }
}

void add(nccl::Type type, char* to, const char* from, size_t count) {
  if (type == nccl::Type::f32) add<float>(to, from, count);
  if (type == nccl::Type::f64) add<double>(to, from, count);
  if (type == nccl::Type::i32) add<int32_t>(to, from, count);
  if (type == nccl::Type::i64) add<int64_t>(to, from, count);
  if (type == nccl::Type::f16) add<olm::float16_t>(to, from, count);
  if (type == nccl::Type::bf16) add<olm::bfloat16_t>(to, from, count);
}

/// Every rank gets what all have, and adds it from the last rank to the first.
Status all_reduce(const void* from, void* to, size_t count, nccl::Type type, nccl::Reduction,
                  nccl::Handle handle, cudaStream_t stream) {
  return in_group(handle, stream, [&](Exchange& exchange) {
    const size_t bytes = count * bytes_of(type);
    char* own = static_cast<char*>(const_cast<void*>(from));
    const int rank = handle->rank, size = handle->size;
    for (int peer = size - 1; peer >= 0; --peer) {
      if (peer == rank) continue;
      exchange.sends.push_back({peer, own, bytes});
      exchange.receives.push_back({peer, nullptr, bytes});
    }
    exchange.land = [=](const std::vector<std::vector<char>>& arrived) {
      std::vector<char> mine(own, own + bytes), sum;
      for (int peer = size - 1, i = 0; peer >= 0; --peer) {
        const std::vector<char>& term = peer == rank ? mine : arrived[size_t(i++)];
        if (sum.empty())
          sum = term;
        else
          add(type, sum.data(), term.data(), count);
      }
      std::memcpy(to, sum.data(), bytes);
    };
  });
}

// ---- communicators ------------------------------------------------------------------------------
std::string name_of(const nccl::UniqueId& id) {
  std::string name;
  for (size_t i = 0; i < 16; ++i) {
    constexpr const char* kDigits = "0123456789abcdef";
    name += kDigits[(id.bytes[i] >> 4) & 15];
    name += kDigits[id.bytes[i] & 15];
  }
  return name;
}

Status make_id(nccl::UniqueId* id) {
  std::random_device random;
  for (char& byte : id->bytes) byte = char(random());
  return Status::success;
}

Status init_rank(nccl::Handle* handle, int size, nccl::UniqueId id, int rank, nccl::Config*) {
  std::lock_guard lock(api_mutex());
  const auto comm = std::make_shared<ncclComm>(name_of(id), rank, size, current_device);
  comms[comm.get()] = comm;
  *handle = comm.get();
  return Status::in_progress;
}

/// Two ranks on one card are refused, as the library does.
Status connected(const ncclComm& comm) {
  for (int rank = 0; rank < comm.size; ++rank)
    if (rank != comm.rank && comm.mesh.about(rank) == comm.about)
      return refuse(Status::invalid_usage, "Duplicate GPU detected: rank " +
                                               std::to_string(comm.rank) + " and rank " +
                                               std::to_string(rank));
  return Status::success;
}

Status get_async_error(nccl::Handle handle, Status* status) {
  std::lock_guard lock(api_mutex());
  const auto found = comms.find(handle);
  if (found == comms.end()) return refuse(Status::invalid_argument, "no such communicator");
  ncclComm& comm = *found->second;
  if (comm.status == Status::in_progress && comm.mesh.connect()) comm.status = connected(comm);
  *status = comm.status;
  return Status::success;
}

Status remove(nccl::Handle handle, bool aborts) {
  std::lock_guard lock(api_mutex());
  const auto found = comms.find(handle);
  if (found == comms.end()) return refuse(Status::invalid_argument, "no such communicator");
  if (aborts) found->second->aborted = true;
  comms.erase(found);
  return Status::success;
}

const char* error_text(Status status) {
  switch (status) {
    case Status::success:
      return "no error";
    case Status::in_progress:
      return "NCCL operation in progress";
    case Status::invalid_argument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case Status::invalid_usage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
  }
  return "unknown result code";
}

constexpr nccl::Functions kFunctions = {
    .get_version =
        [](int* version) {
          *version = 22800;
          return Status::success;
        },
    .get_unique_id = make_id,
    .init_rank = init_rank,
    .finalize = [](nccl::Handle) { return Status::success; },
    .destroy = [](nccl::Handle handle) { return remove(handle, false); },
    .abort = [](nccl::Handle handle) { return remove(handle, true); },
    .get_async_error = get_async_error,
    .get_error_string = error_text,
    .get_last_error = [](nccl::Handle) { return last_error_text.c_str(); },
    .group_start =
        [] {
          ++group.depth;
          return Status::success;
        },
    .group_end = end_group,
    .send = send,
    .receive = receive,
    .all_reduce = all_reduce};

}  // namespace

namespace olm::cuda_backend::nccl {

const Functions& functions() { return kFunctions; }
std::string path() { return "the emulator's"; }
std::string why_not() { return {}; }

}  // namespace olm::cuda_backend::nccl
