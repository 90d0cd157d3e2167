#pragma once
// Processes that compute together: ranks of one world, on one machine or many, that exchange
// tensors. Transports are Open MPI for tensors on the CPU and NCCL for those on NVIDIA cards; a
// process that was started alone is a world of one.
//
//   dist::init();                        // joins the ranks that mpirun or srun started
//   dist::Comm world = dist::world();
//   world.all_reduce(x).wait();          // x becomes the sum over ranks
//
// Operations on one Comm are issued in the same order by all its ranks, from one thread at a time;
// for tensors on cards those on all Comms together. They begin at once and go on while the caller
// computes; Work::wait() ends them. A rank that fails ends them all: see fail().
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <olm/engine/sum_tree.h>
#include <olm/engine/tensor.h>

namespace olm::dist {

/// What goes wrong between ranks: one that died, a network that was cut, a transport that failed.
/// Names the operation, where the program was (see set_place()) and the silent ranks.
class OLM_API CommError : public Error {
 public:
  using Error::Error;
};

/// Another rank failed, and ended the operations of this one. what() is "rank N: " and its
/// sentence; whoever prints errors leaves it to that rank.
class OLM_API PeerError : public CommError {
 public:
  using CommError::CommError;
};

/// Alike on all ranks: how often a rank gives signs of life follows from its own timeout.
struct Options {
  /// Seconds without a sign of life after which a rank is taken for dead. Ranks that compute, or
  /// write a checkpoint, go on giving signs. In init(): seconds until all have joined.
  double timeout = 60;
  /// Seconds that an operation waits for a rank that lives and does not come to it, not counting
  /// those in which this process was stopped.
  double patience = 1800;
};

namespace detail {
class Backend;   // a transport, see comm/backend_internal.h
class Progress;  // of one operation
}  // namespace detail

/// An operation under way. It goes on where all handles are dropped, and keeps its tensors alive;
/// they are not to be touched before it is done.
class OLM_API Work {
 public:
  Work() = default;  ///< done
  explicit Work(std::shared_ptr<detail::Progress> progress) : progress_(std::move(progress)) {}
  /// Returns when it is done on this rank; for tensors on a card, when what the caller launches
  /// next sees its result. Throws CommError or PeerError.
  void wait() const;
  bool done() const;

 private:
  std::shared_ptr<detail::Progress> progress_;
};

/// How a sum over ranks is taken.
struct Sum {
  /// Terms of which ranks hold the nodes of cut(size()); one for each rank where it has one term.
  SumTree tree = SumTree(1);
  /// Added as `tree` says; else all_reduce() takes the transport's own algorithm where it has one
  /// for the dtype, with an order of its choice.
  bool ordered = true;
  /// bf16: terms of f32 are rounded to it and travel in it; all else in their own dtype, in which
  /// sums are taken and handed out.
  DType wire = f32;
};

/// What a Comm did so far.
struct Traffic {
  int64_t operations = 0;
  int64_t bytes_sent = 0;     ///< to other ranks
  double seconds = 0;         ///< in which some operation was under way
  double waited_seconds = 0;  ///< in which a caller waited for one
};

/// Elements of each rank's part of a tensor, taken as flat, in the order of ranks.
using Counts = std::vector<int64_t>;
/// n elements in `ranks` parts as even as can be.
OLM_API Counts even_counts(int64_t n, int ranks);

/// Ranks that exchange tensors; a handle. Tensors are contiguous, of one dtype on all ranks, and
/// where the transport reaches: throws Error, on this rank alone, for others. Counts agree among
/// ranks: where more comes than was wanted all are told, but a transport may have written it behind
/// the tensor. Bits of ordered sums depend on the terms alone.
class OLM_API Comm {
 public:
  Comm();  ///< of this process alone
  explicit Comm(std::shared_ptr<detail::Backend> backend);
  int rank() const;
  int size() const;

  /// Some ranks of this one as a Comm of their own, numbered in the order of the list. Called by
  /// all ranks of this one, each with the list that it is in; the lists are disjoint.
  Comm group(const std::vector<int>& ranks) const;

  /// x becomes the sum over ranks.
  Work all_reduce(const Tensor& x, const Sum& sum = {}) const;
  /// part [counts[rank]] becomes the sum over ranks of that rank's part of x.
  Work reduce_scatter(const Tensor& x, const Counts& counts, const Tensor& part,
                      const Sum& sum = {}) const;
  /// x becomes the parts of all ranks, one behind the other; `part` may be its place in x.
  Work all_gather(const Tensor& part, const Counts& counts, const Tensor& x) const;
  /// x becomes that of rank `root`.
  Work broadcast(const Tensor& x, int root) const;
  /// Rank r gets the part of x with sent[r] elements; what it gives is the part of y with
  /// received[r]. x and y do not overlap.
  Work all_to_all(const Tensor& x, const Counts& sent, const Tensor& y,
                  const Counts& received) const;
  /// Returns when all ranks have called it.
  void barrier() const;
  /// Bytes of each rank, of any number, on the host; returns when they are there.
  std::vector<std::string> all_gather(const std::string& bytes) const;

  Traffic traffic() const;
  const std::shared_ptr<detail::Backend>& backend() const { return backend_; }

 private:
  std::shared_ptr<detail::Backend> backend_;
};

/// Does `make` on every rank and returns what each gave, in the order of ranks. Where one throws,
/// all do: the first of them its own error, the others PeerError with its sentence.
OLM_API std::vector<std::string> all_gather_of(const Comm& comm,
                                               const std::function<std::string()>& make);
/// Likewise of what gives nothing: returns when all have done it.
OLM_API void together(const Comm& comm, const std::function<void()>& act);

/// Joins the ranks that this process was started with, by Open MPI's mpirun or another launcher
/// that it knows (srun); a process started alone is a world of one, and needs no MPI. Throws
/// CommError where Open MPI is missing or is not the one this library was built for, and Error
/// where the library was built without, or srun speaks no PMIx. Called again it changes the options
/// alone, on all ranks at the same time. At the end of the process the ranks leave together, as
/// leave() has it.
OLM_API Comm init(const Options& options = {});
/// The last operation of this process: returns when all ranks have called it or come to the end of
/// theirs. Throws CommError, which names them, where some fall silent or do not come. Where a
/// program does not call it, its end waits likewise, and cannot say that ranks did not come.
OLM_API void leave();
/// All ranks; this process alone before init().
OLM_API Comm world();
/// The place among, and the number of, the ranks on this machine.
OLM_API int local_rank();
OLM_API int local_size();
/// The name of each rank's machine.
OLM_API std::vector<std::string> hosts();
/// True where the library has a transport between processes.
OLM_API bool is_available();
/// For people: what carries tensors between ranks, with its version, or why nothing does.
OLM_API std::string describe();

/// Where the program is, such as "step 12", for errors.
OLM_API void set_place(const std::string& place);
/// Tells the other ranks that this one fails, and why: what they wait for, now or later, throws
/// PeerError. The first sentence counts. Nothing happens in a world of one.
OLM_API void fail(const std::string& sentence);
/// True where this rank is the one to say why all stop: the one that failed, or of those that found
/// others silent the first that is not.
OLM_API bool speaks_for(const std::exception& error);
/// A sign to all ranks, of which each learns soon, at no certain moment: that they are to stop. Not
/// for signal handlers.
OLM_API void ask_all_to_stop();
OLM_API bool asked_to_stop();

}  // namespace olm::dist
