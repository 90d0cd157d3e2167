#include <olm/engine/comm/mpi/operation_internal.h>

#include <algorithm>

#include <olm/engine/comm/mpi/thread_internal.h>

namespace olm::dist::detail {

MPI_Datatype summed_type(const Mpi& mpi, DType dtype) {
  switch (dtype) {
    case f32:
      return mpi.float32;
    case f64:
      return mpi.float64;
    case i32:
      return mpi.int32;
    case i64:
      return mpi.int64;
    default:
      return nullptr;
  }
}

MpiOperation::MpiOperation(std::shared_ptr<MpiThread> thread,
                           std::shared_ptr<const std::vector<int>> ranks, int tag,
                           std::shared_ptr<Meter> meter, Exchange exchange)
    : thread_(std::move(thread)),
      ranks_(std::move(ranks)),
      tag_(tag),
      meter_(std::move(meter)),
      exchange_(std::move(exchange)) {
  meter_->begin(exchange_);
}

MpiOperation::MpiOperation(std::shared_ptr<MpiThread> thread,
                           std::shared_ptr<const std::vector<int>> ranks,
                           std::shared_ptr<Meter> meter, const Tensor& x)
    : thread_(std::move(thread)),
      ranks_(std::move(ranks)),
      meter_(std::move(meter)),
      exchange_{.name = "all_reduce", .kept = {x}},
      sum_(x),
      sum_data_(static_cast<char*>(x.mutable_data())) {
  // What a ring sends: each part but one, twice.
  const size_t bytes = size_t(x.numel()) * size_of(x.dtype()), n = ranks_->size();
  meter_->begin(2 * bytes * (n - 1) / n);
}

bool MpiOperation::done() { return thread_->done(*this); }
void MpiOperation::wait() { thread_->wait(*this); }

void MpiOperation::begin(const Mpi& mpi, MPI_Comm comm) {
  still_ = Waiting();
  if (sum_.defined())
    begin_sum(mpi, comm);
  else
    begin_stage(mpi, comm);
}

void MpiOperation::begin_sum(const Mpi& mpi, MPI_Comm comm) {
  const size_t size = size_of(sum_.dtype()), bytes = size_t(sum_.numel()) * size;
  for (size_t at = 0; at < bytes; at += piece_bytes) {
    const size_t n = std::min(piece_bytes, bytes - at);
    requests_.push_back(mpi.request_null);
    pieces_.push_back({-1, n, false});
    mpi.check(mpi.Iallreduce(MPI_IN_PLACE, sum_data_ + at, int(n / size),
                             summed_type(mpi, sum_.dtype()), mpi.sum, comm, &requests_.back()),
              "MPI");
  }
  open_ = requests_.size();
}

void MpiOperation::begin_stage(const Mpi& mpi, MPI_Comm comm) {
  requests_.clear();
  pieces_.clear();
  for (const Message& m : exchange_.receives) post(mpi, comm, m, true);
  for (const Message& m : exchange_.sends) post(mpi, comm, m, false);
  open_ = requests_.size();
}

void MpiOperation::post(const Mpi& mpi, MPI_Comm comm, const Message& m, bool arrives) {
  const int peer = ranks_->at(size_t(m.peer));
  for (size_t at = 0; at < m.bytes || at == 0; at += piece_bytes) {
    const size_t n = std::min(piece_bytes, m.bytes - at);
    void* data = static_cast<char*>(m.data) + at;
    requests_.push_back(mpi.request_null);
    pieces_.push_back({peer, n, arrives});
    MPI_Request* request = &requests_.back();
    mpi.check(arrives ? mpi.Irecv(data, int(n), mpi.byte, peer, tag_, comm, request)
                      : mpi.Isend(data, int(n), mpi.byte, peer, tag_, comm, request),
              "MPI");
  }
}

void MpiOperation::require_whole(const Mpi& mpi, size_t piece, const MPI_Status& status) const {
  const Piece& p = pieces_[piece];
  if (!p.arrives) return;
  int bytes = 0;
  mpi.check(mpi.Get_count(&status, mpi.byte, &bytes), "MPI");
  if (size_t(bytes) != p.bytes)
    throw CommError("wanted ", p.bytes, " bytes from rank ", p.peer, ", got ", bytes);
}

void MpiOperation::check(const Mpi& mpi, size_t piece, int error) const {
  const Piece& p = pieces_[piece];
  if (error == MPI_ERR_TRUNCATE)
    throw CommError("wanted ", p.bytes, " bytes from rank ", p.peer, ", got more");
  if (error != MPI_SUCCESS && p.peer >= 0)
    throw CommError("messages with rank ", p.peer, ": ", mpi.text_of(error));
  mpi.check(error, "MPI");
}

bool MpiOperation::poll(const Mpi& mpi, MPI_Comm comm) {
  if (open_ > 0) {
    indices_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int count = 0;
    const int error = mpi.Testsome(int(requests_.size()), requests_.data(), &count, indices_.data(),
                                   statuses_.data());
    if (error == MPI_ERR_IN_STATUS)
      for (int i = 0; i < count; ++i)
        check(mpi, size_t(indices_[size_t(i)]), statuses_[size_t(i)].MPI_ERROR);
    mpi.check(error, "MPI");
    if (count == 0 || count == MPI_UNDEFINED) return false;
    for (int i = 0; i < count; ++i) {
      const auto piece = size_t(indices_[size_t(i)]);
      if (!sum_.defined()) require_whole(mpi, piece, statuses_[size_t(i)]);
      pieces_[piece].bytes = 0;
    }
    open_ -= size_t(count);
    still_ = Waiting();
  }
  if (open_ == 0) end_stage(mpi, comm);
  return true;
}

void MpiOperation::end_stage(const Mpi& mpi, MPI_Comm comm) {
  if (exchange_.then) exchange_.then({});
  if (exchange_.next) {
    Exchange next = std::move(*exchange_.next);
    // What the first stage kept may be what the second needs.
    next.kept.insert(next.kept.end(), exchange_.kept.begin(), exchange_.kept.end());
    exchange_ = std::move(next);
    begin_stage(mpi, comm);
    return;
  }
  exchange_.kept.clear();
  exchange_.then = {};
  sum_ = {};
  meter_->end();
  finished_ = true;
}

std::vector<int> MpiOperation::missing() const {
  std::vector<int> ranks;
  for (size_t i = 0; i < pieces_.size(); ++i)
    if (pieces_[i].bytes > 0 && pieces_[i].peer >= 0) ranks.push_back(pieces_[i].peer);
  if (open_ > 0 && ranks.empty()) ranks = *ranks_;  // of a sum it is not known
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

}  // namespace olm::dist::detail
