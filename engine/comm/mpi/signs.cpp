#include <olm/engine/comm/mpi/signs_internal.h>

#include <algorithm>

namespace olm::dist::detail {
namespace {

constexpr int kTag = 1;

}  // namespace

Signs::Signs(const Mpi& mpi, MPI_Comm comm, int rank, int size)
    : mpi_(mpi),
      comm_(comm),
      rank_(rank),
      size_(size),
      unsent_(size_t(size), 0),
      buffer_(kBytes, '\0'),
      receive_(mpi.request_null),
      silent_(size_t(size)),
      left_(size_t(size), false),
      ended_(size_t(size), false),
      sent_(Clock::now()) {
  expect();
}

void Signs::expect() {
  mpi_.check(
      mpi_.Irecv(buffer_.data(), int(kBytes), mpi_.byte, MPI_ANY_SOURCE, kTag, comm_, &receive_),
      "MPI");
}

void Signs::send_to(int rank, SignKind kind, const std::string& text) {
  Sending& s = sendings_.emplace_back();
  s.to = rank;
  s.is_alive = kind == SignKind::alive;
  s.bytes = char(kind) + text.substr(0, kBytes - 1);
  const int error =
      mpi_.Isend(s.bytes.data(), int(s.bytes.size()), mpi_.byte, rank, kTag, comm_, &s.request);
  // Whom nothing reaches falls silent, which says more than the error.
  if (error != MPI_SUCCESS) return sendings_.pop_back();
  if (s.is_alive) ++unsent_[size_t(rank)];
}

void Signs::send(SignKind kind, const std::string& text) {
  leaves_ = leaves_ || kind == SignKind::leaving || kind == SignKind::ending;
  for (int r = 0; r < size_; ++r)
    if (r != rank_) send_to(r, kind, text);
}

std::vector<Sign> Signs::poll(Clock::duration interval) {
  const Clock::time_point now = Clock::now();
  // Until others learn of another interval, they keep to the one before.
  if (interval != interval_) std::fill(silent_.begin(), silent_.end(), Waiting(now));
  interval_ = interval;
  for (auto s = sendings_.begin(); s != sendings_.end();) {
    int done = 0;
    if (mpi_.Test(&s->request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) done = 1;
    if (done && s->is_alive) --unsent_[size_t(s->to)];
    s = done ? sendings_.erase(s) : std::next(s);
  }
  if (now - sent_ >= interval) {
    sent_ = now;
    for (int r = 0; r < size_; ++r)
      // One that has left waits for the others to leave, too.
      if (r != rank_ && unsent_[size_t(r)] == 0 && !(left_[size_t(r)] && leaves_))
        send_to(r, SignKind::alive, "");
  }
  std::vector<Sign> came;
  for (int done = 1; done;) {
    MPI_Status status{};
    if (mpi_.Test(&receive_, &done, &status) != MPI_SUCCESS) {
      // As above; the library may have taken the request back.
      if (receive_ == mpi_.request_null) expect();
      break;
    }
    if (!done) break;
    int bytes = 0;
    mpi_.check(mpi_.Get_count(&status, mpi_.byte, &bytes), "MPI");
    const size_t from = size_t(status.MPI_SOURCE);
    silent_[from] = Waiting(now);
    const SignKind kind = bytes > 0 ? SignKind(buffer_[0]) : SignKind::alive;
    ended_[from] = ended_[from] || kind == SignKind::ending;
    left_[from] = left_[from] || kind == SignKind::leaving || kind == SignKind::ending;
    if (kind != SignKind::alive)
      came.push_back({kind, int(from), buffer_.substr(1, size_t(bytes) - 1)});
    expect();
  }
  return came;
}

bool Signs::all_sent() const { return sendings_.empty(); }

void Signs::close() {
  mpi_.Cancel(&receive_);
  int done = 0;
  for (int tries = 0; tries < 1000 && !done; ++tries)
    mpi_.Test(&receive_, &done, MPI_STATUS_IGNORE);
}

}  // namespace olm::dist::detail
