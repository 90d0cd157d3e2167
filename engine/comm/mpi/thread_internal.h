#pragma once
// The one thread that calls MPI.
#include <sys/types.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/engine/comm/mpi/operation_internal.h>
#include <olm/engine/comm/mpi/signs_internal.h>

namespace olm::dist::detail {

/// Groups of ranks that have tags of their own, the world among them.
inline constexpr int kGroups = 1024;

/// Joins the world, moves operations on, and tells and hears what ranks tell each other. It never
/// waits inside MPI once it has joined, but for MPI_Finalize.
class MpiThread {
 public:
  using Clock = std::chrono::steady_clock;
  /// Returns when all ranks have joined. Throws CommError.
  static std::shared_ptr<MpiThread> join(const Options& options);
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Tags of a group are this many, by a number of the operation.
  int tags_per_group() const { return tags_per_group_; }

  void submit(const std::shared_ptr<MpiOperation>& operation);
  bool done(const MpiOperation& operation);
  void wait(MpiOperation& operation);

  void set_options(const Options& options);
  void set_hosts(const std::vector<std::string>& hosts);
  std::vector<std::string> hosts();
  void set_place(const std::string& place);
  void fail(const std::string& sentence);
  /// See Backend::failure(), of an operation among `ranks` of the world.
  std::exception_ptr failure(const char* operation, double seconds, const std::vector<int>& ranks);
  bool speaks_for(const std::exception& error);
  void ask_all_to_stop();
  bool asked_to_stop();
  /// Waits for the others to leave too, and ends MPI. Throws CommError where it could not; does
  /// nothing when called again, nor in a child that was forked.
  void leave();
  /// Likewise at the end of the process, where nobody can be told; after a failure it waits for the
  /// one that says why.
  void leave_at_exit();
  /// Whether more ranks share the cores of this one than there are.
  void set_crowded(bool crowded);

 private:
  /// Why nothing goes on.
  struct Failure {
    int from = -1;            // the rank that failed; -1: none has
    std::string text = {};    // its sentence, or what became of the absent ranks
    std::vector<int> absent;  // ranks that gave no sign, left or did not come; `from` found it
  };
  enum class Leaving { no, asked, after_failure, finalizing, ended };

  void run();
  void enter();
  void leave_before_finalize();
  MPI_Comm duplicate();
  void turn();
  bool move_on();
  void start_submitted();
  template <class F>
  void naming(const MpiOperation& operation, F&& f);
  void listen();
  void hear(const Sign& sign);
  void look_for_absent();
  void look_for_late();
  void set_failure(Failure failure);
  /// These ranks live, and did not come for so many seconds.
  void set_late(double patience, const std::vector<int>& missing);
  std::vector<int> not_leaving();
  void send_wishes();
  bool may_end();
  void end();
  void nap(bool moved);
  /// Throws in a child that was forked: the communication thread stayed behind.
  void require_own_process(const char* operation) const;
  [[noreturn]] void throw_failure(const char* operation);
  std::string at_place(const char* operation) const;
  int speaker() const;
  std::string with_hosts(const std::vector<int>& ranks);

  // Of the communication thread alone, once it runs.
  const Mpi* mpi_ = nullptr;
  MPI_Comm comm_ = nullptr;
  std::unique_ptr<Signs> signs_;
  std::vector<std::shared_ptr<MpiOperation>> active_;
  bool joined_running_ = false;  // MPI was there already, and is not ended here
  bool told_failure_ = false, told_stop_ = false, told_leaving_ = false;
  bool told_ending_ = false;
  double timeout_ = 0;  // of the options, when others were last heard
  Clock::time_point looked_for_late_;
  int rank_ = 0, size_ = 1, tags_per_group_ = 1;
  pid_t process_ = 0;

  // Of all threads.
  std::mutex mutex_;
  std::condition_variable changed_;  // for callers
  std::condition_variable work_;     // for the communication thread
  std::vector<std::shared_ptr<MpiOperation>> submitted_;
  Options options_;
  std::vector<std::string> hosts_;
  std::string place_;
  Failure failure_;
  std::vector<Clock::time_point> left_;   // when a rank said so
  std::map<int, std::string> sentences_;  // of ranks that failed
  std::string join_error_;
  bool joined_ = false, told_ = false, asked_to_stop_ = false, wants_stop_ = false;
  bool crowded_ = false;
  int waiters_ = 0;
  int64_t idle_turns_ = 0;  // looks at nothing new since somebody wanted something
  Leaving leaving_ = Leaving::no;
  Waiting ending_;  // after a failure
};

}  // namespace olm::dist::detail
