#pragma once
// An operation under way over MPI: pieces of messages, stage after stage.
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/comm/mpi/api_internal.h>

namespace olm::dist::detail {

class MpiThread;

/// Everything but `done_` belongs to the communication thread once it is submitted.
class MpiOperation final : public Progress {
 public:
  MpiOperation(std::shared_ptr<MpiThread> thread, std::shared_ptr<const std::vector<int>> ranks,
               int tag, std::shared_ptr<Meter> meter, Exchange exchange);
  /// A sum in the order of the library's choice.
  MpiOperation(std::shared_ptr<MpiThread> thread, std::shared_ptr<const std::vector<int>> ranks,
               std::shared_ptr<Meter> meter, const Tensor& x);

  bool done() override;
  void wait() override;
  const char* name() const { return exchange_.name; }

  void begin(const Mpi& mpi, MPI_Comm comm);
  /// Looks what has arrived and goes on with it; true where something has. Throws CommError.
  bool poll(const Mpi& mpi, MPI_Comm comm);
  bool finished() const { return finished_; }
  /// Seconds since something has come or gone; to be asked for all the while.
  double still(Waiting::Clock::time_point now) { return still_.seconds(now); }
  /// Ranks of the world whose part is missing.
  std::vector<int> missing() const;

 private:
  friend class MpiThread;
  struct Piece {
    int peer = 0;  // in the world
    size_t bytes = 0;
    bool arrives = false;
  };
  void begin_stage(const Mpi& mpi, MPI_Comm comm);
  void post(const Mpi& mpi, MPI_Comm comm, const Message& m, bool arrives);
  void begin_sum(const Mpi& mpi, MPI_Comm comm);
  void check(const Mpi& mpi, size_t piece, int error) const;
  void require_whole(const Mpi& mpi, size_t piece, const MPI_Status& status) const;
  void end_stage(const Mpi& mpi, MPI_Comm comm);

  std::shared_ptr<MpiThread> thread_;
  std::shared_ptr<const std::vector<int>> ranks_;
  int tag_ = 0;
  std::shared_ptr<Meter> meter_;
  Exchange exchange_;
  Tensor sum_;
  char* sum_data_ = nullptr;
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;  // of the requests
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  size_t open_ = 0;
  bool finished_ = false;
  Waiting still_;
  bool done_ = false;  // under the thread's mutex
};

/// The library's type for a dtype that it can sum, or null.
MPI_Datatype summed_type(const Mpi& mpi, DType dtype);

}  // namespace olm::dist::detail
