#pragma once
// What ranks tell each other beside operations: that they live, fail, stop or leave.
#include <chrono>
#include <list>
#include <string>
#include <vector>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/comm/mpi/api_internal.h>

namespace olm::dist::detail {

/// A rank leaves where all is well, and ends after a failure.
enum class SignKind : char { alive, failed, absent, stop, leaving, ending };

struct Sign {
  SignKind kind = SignKind::alive;
  int from = 0;
  std::string text = {};
};

/// Short messages on a communicator of their own. Called by one thread; never waits.
class Signs {
 public:
  using Clock = std::chrono::steady_clock;
  Signs(const Mpi& mpi, MPI_Comm comm, int rank, int size);

  /// To all other ranks.
  void send(SignKind kind, const std::string& text = "");
  /// Sends what was not sent for `interval` to those who have taken what was sent before, and
  /// returns what has come. Another `interval` than before begins all silence anew.
  std::vector<Sign> poll(Clock::duration interval);
  /// Seconds since something came from a rank; to be asked for all the while.
  double silence(int rank) { return silent_[size_t(rank)].seconds(); }
  /// It leaves, or ends after a failure.
  bool has_left(int rank) const { return left_[size_t(rank)]; }
  bool has_failed_and_ended(int rank) const { return ended_[size_t(rank)]; }
  /// True once what was sent has been taken over by the transport.
  bool all_sent() const;
  /// Takes back what waits for signs to come, before MPI_Finalize.
  void close();

 private:
  static constexpr size_t kBytes = 1 << 16;  // of a message: room for the numbers of many ranks
  struct Sending {
    int to = 0;
    bool is_alive = false;
    std::string bytes;
    MPI_Request request;
  };
  void send_to(int rank, SignKind kind, const std::string& text);
  void expect();

  const Mpi& mpi_;
  MPI_Comm comm_;
  int rank_, size_;
  std::list<Sending> sendings_;
  std::vector<int> unsent_;  // signs of life under way to each rank
  std::string buffer_;
  MPI_Request receive_;
  std::vector<Waiting> silent_;
  std::vector<bool> left_, ended_;
  bool leaves_ = false;
  Clock::time_point sent_;
  Clock::duration interval_{};
};

}  // namespace olm::dist::detail
