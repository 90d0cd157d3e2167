#pragma once
// The gradients of a rank's own micro-batches, added up as they come.
#include <functional>
#include <memory>
#include <vector>

#include <olm/nn/expert_parallel.h>
#include <olm/nn/optim.h>

namespace olm::nn::parallel {

/// A sum of tensors that come one by one, in the order of SumTree: the sums of its open nodes are
/// on a stack. An undefined one is none, not zeros.
class TreeSum {
 public:
  /// Term i of n; all of them in order. Half precision is added in f32.
  void add(Tensor x, int64_t i, int64_t n);
  /// The sum of all terms, which then belongs to the caller.
  Tensor take();
  void clear() { open_.clear(); }

 private:
  Tensors open_;
};
/// True where others hold the tensor or its memory.
bool is_shared(const Tensor& x);
/// total += x, where an undefined one is none. What others hold is left as it is.
void add_into(Tensor& total, const Tensor& x);

/// Watches parameters while backward runs, and sums what arrives for each over micro-batches.
class LocalSums {
 public:
  /// Of the parameters of an optimizer that are to be trained, by their number. `ordered`: added as
  /// a tree; else in the leaf, as backward does it.
  LocalSums(const Tensors& parameters, const std::vector<bool>& trained,
            const ExpertParallel* experts, bool ordered);
  ~LocalSums();
  LocalSums(const LocalSums&) = delete;
  LocalSums& operator=(const LocalSums&) = delete;

  /// Runs a backward pass for micro-batch i of n. In the last one done(parameter, sum) is called as
  /// soon as a parameter's sum is complete, once for each; undefined where it had no gradient.
  using Done = std::function<void(size_t parameter, Tensor sum)>;
  void run(int64_t i, int64_t n, const std::function<void()>& backward, Done done);
  /// Forgets what was added, and what leaves hold.
  void clear();
  /// Which parameters had a gradient in the run of the last micro-batch or one before.
  const std::vector<bool>& present() const { return present_; }
  /// Gradients of a parameter that are held at most after each of n micro-batches; `leaves`: those
  /// of the last one do not stay.
  int64_t most_held(size_t parameter, int64_t n, bool leaves) const;

 private:
  /// Where gradients of a parameter arrive: the parameter itself, or a handle on it for each rank
  /// whose rows are computed here.
  struct Source {
    Tensor leaf = {};
    TreeSum sum = {};
    Tensor total = {};
    bool came = false;
  };
  struct Watched {
    bool trained = false;
    std::vector<Source> sources = {};
    size_t missing = 0;
  };
  /// What functions of on_grad reach, which nobody can take away from a leaf: null outside of
  /// run().
  struct Gate {
    LocalSums* open = nullptr;
  };

  void watch(size_t parameter, size_t source);
  void arrived(size_t parameter, size_t source, const Tensor& gradient);
  void take(size_t parameter, Source& source, const Tensor& gradient);
  void complete(size_t parameter);

  std::vector<Watched> watched_;
  std::vector<bool> present_;
  bool ordered_;
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  int64_t i_ = 0, n_ = 1;
  Done done_;
};

}  // namespace olm::nn::parallel
