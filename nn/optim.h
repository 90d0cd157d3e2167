#pragma once
// Optimizers: AdamW, SGD, Lion, each one fused pass over all parameters; Muon, which multiplies
// matrices; and learning-rate schedules.
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <olm/engine/raw_optim.h>
#include <olm/engine/safetensors.h>
#include <olm/engine/tensor.h>

namespace olm::nn {

/// Parameters that share what differs from the optimizer's options.
struct ParameterGroup {
  Tensors parameters = {};
  std::optional<double> lr_scale = {};      ///< factor on the learning rate; 1 if not given
  std::optional<double> weight_decay = {};  ///< the optimizer's if not given
  std::optional<bool> orthogonalize = {};   ///< by Muon; matrices alone are, if not given
};

/// The usual groups: matrices with weight decay; vectors and scalars (norms, biases) without.
OLM_API std::vector<ParameterGroup> decay_groups(const Tensors& parameters, double weight_decay);

struct StepOptions {
  double gradient_scale = 1;  ///< gradients are multiplied by it first, such as 1 / targets, where
                              ///< losses were summed; see Module::loss
  double skip_above = std::numeric_limits<double>::infinity();  ///< a larger norm skips the step
  double skip_loss_above = std::numeric_limits<double>::infinity();  ///< likewise a larger loss
};

/// What a step did.
struct StepInfo {
  double grad_norm = 0;    ///< global L2 norm of the scaled gradients, before clipping
  bool skipped = false;    ///< norm or loss was not finite or too large: nothing changed
  int64_t first_bad = -1;  ///< first of parameters() whose gradient has no finite norm
  double loss = 0;         ///< mean over the targets that add_loss() counted, without aux_loss
  double aux_loss = 0;     ///< likewise of auxiliary losses
};

/// Elements [begin, end) of one of an optimizer's parameters, taken as flat.
struct ParameterRange {
  int64_t parameter = 0;  ///< its number in parameters()
  int64_t begin = 0, end = 0;
  bool operator==(const ParameterRange&) const = default;
};

/// What an update of a parameter is.
struct ParameterUpdate {
  bool divisible = true;  ///< its elements can be updated apart; not where it is orthogonalized
  int64_t moments = 0;    ///< f32 numbers that are kept of each element
  double flops = 0;       ///< of GEMM
};

/// Holds parameters (handles: moving or converting a model keeps them) and their moments. A
/// parameter without a gradient in a step is left alone, and its own count of steps with it. Of a
/// bf16 parameter it keeps the master weights in f32, from its first gradient on: those are
/// updated, and the parameter is what they round to.
class OLM_API Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Adds a micro-batch to the loss that the next step() judges and reports: the mean `loss` over
  /// `targets` targets, of which the losses `aux` (Context::aux_losses) are a part. Reads nothing
  /// from the device.
  void add_loss(const Tensor& loss, const Tensors& aux, int64_t targets);
  /// Clips by the global norm, updates, and clears the gradients. A step whose gradients or loss
  /// are not finite changes nothing but clears them too. Without gradients it only reports the
  /// loss. Makes one copy from the device, of kernels::StepScalars.
  StepInfo step(StepOptions options = {});
  /// Clears the gradients, and the losses since the last step.
  void zero_grad();
  double lr() const { return lr_; }
  void set_lr(double lr);
  double last_grad_norm() const { return last_grad_norm_; }
  /// Steps that were not skipped.
  int64_t steps() const { return steps_; }
  /// In the order of the groups.
  Tensors parameters() const;
  ParameterUpdate update_of(int64_t parameter) const;
  /// What it is, such as "AdamW".
  const char* name() const { return kind_.name; }
  /// Its options, and what groups have of their own, parameter by parameter: the same on ranks that
  /// train together.
  std::string describe() const;

  /// Steps and moments by name (`step`, `missed`, `exp_avg.0`, …): aliases of what the next step
  /// changes. The learning rate is not part of it.
  std::map<std::string, Tensor> state_dict() const;
  /// Throws, and changes nothing, where names or shapes do not fit the parameters. Of whole
  /// moments it takes what ranges() wants.
  void load_state_dict(const std::map<std::string, Tensor>& state);

  // step() in parts, for whoever adds up gradients elsewhere and shares the work (DataParallel):
  //   sums = squared_sums(gradients); begin_step(all sums, options);
  //   update_ranges(gradients, 0); end_step(all sums, present);
  /// Restricts updates and moments to these elements: disjoint, in any order, each of whole blocks
  /// of kernels::kNormBlock elements but for the end of a parameter, or of one that is not
  /// divisible all. All of each parameter at first. Moments that are there already are cut; throws
  /// for elements whose moments are not.
  void set_ranges(std::vector<ParameterRange> ranges);
  const std::vector<ParameterRange>& ranges() const { return ranges_; }
  /// Bytes of what is kept of ranges(), once all parameters that are trained had a gradient.
  size_t state_bytes() const;
  /// Sums of squares of blocks of kernels::kNormBlock elements, f64, in the order of ranges():
  /// gradients are contiguous, one for each range, undefined where there is none (zeros).
  Tensor squared_sums(const Tensors& gradients) const;
  /// Opens a step whose gradients have these sums of squares, of all blocks of all parameters in
  /// their order.
  void begin_step(const Tensor& squared_sums, const StepOptions& options);
  /// Updates ranges first, first + 1, … by a gradient each; undefined ones leave theirs alone.
  void update_ranges(const Tensors& gradients, size_t first);
  /// Ends the step; `present[i]` where parameter i had a gradient on some rank.
  StepInfo end_step(const Tensor& squared_sums, const std::vector<bool>& present);
  /// The tensors of state_dict() when all ranks' parts are put together, and this rank's parts of
  /// them: of "step" and "missed" every rank has the whole.
  std::vector<TensorLayout> state_layout() const;
  std::vector<TensorPiece> state_pieces() const;

 protected:
  /// What an optimizer is to this class.
  struct Kind {
    const char* name = "";
    double lr = 0, weight_decay = 0, clip_norm = 0;
    const char* first = nullptr;   ///< name of the first moment; null where there is none
    const char* second = nullptr;  ///< name of the second moment
    /// Name of the only moment of parameters that are orthogonalized; null where none are.
    const char* of_matrices = nullptr;
    int64_t iterations = 0;    ///< of orthogonalizing
    std::string options = {};  ///< all of them, for people
  };
  Optimizer(std::vector<ParameterGroup> groups, Kind kind);

 private:
  struct Entry {
    Tensor parameter = {};
    double lr_scale = 1, weight_decay = 0;
    bool orthogonalize = false;
    int64_t missed = 0;
    bool started = false;  // had a gradient once, on some rank, and so has moments
  };
  /// What is kept of a range: first and second moment, and the master weights of a bf16 parameter.
  static constexpr size_t kMaster = 2, kKept = 3;
  using Kept = std::array<Tensor, kKept>;

  virtual void update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) = 0;
  Device device() const;
  void place_state(Device device);
  StepInfo loss_alone();
  int64_t first_bad(const Tensor& squared_sums) const;
  /// Name of what is kept, or null where a parameter has none of it.
  const char* name_of_kept(size_t k, const Entry& entry) const;
  bool is_whole(const ParameterRange& range) const;
  void require_whole(const char* what) const;
  void check_ranges(const std::vector<ParameterRange>& ranges) const;
  Tensor part_of(const Tensor& whole, const ParameterRange& range) const;
  Tensor cut_kept(size_t k, const ParameterRange& range, const std::vector<size_t>& same) const;
  void prepare(Kept& kept, const ParameterRange& range) const;
  raw::OptimItem item_of(size_t range, const Tensor& gradient);
  const Tensor* find_kept(const std::map<std::string, Tensor>& state, size_t k, size_t i,
                          bool wanted) const;
  void check_names(const std::map<std::string, Tensor>& state) const;
  Tensor missed_steps() const;

  Kind kind_;
  std::vector<Entry> entries_;
  std::vector<ParameterRange> ranges_;
  std::vector<Kept> kept_;  // of each range
  raw::StepState state_;
  double lr_, last_grad_norm_ = 0;
  int64_t steps_ = 0;
  std::optional<int64_t> targets_;  // of the losses since the last step
};

struct AdamWOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8, weight_decay = 0.01;
  double clip_norm = 0;  ///< 0: gradients are not clipped
  void fields(auto& v) {
    v("lr", lr);
    v("beta1", betas[0]);
    v("beta2", betas[1]);
    v("eps", eps);
    v("weight_decay", weight_decay);
    v("clip_norm", clip_norm);
  }
};

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), as in PyTorch, t counted per parameter:
///   p *= 1 - lr·weight_decay    m = b1·m + (1-b1)·g    v = b2·v + (1-b2)·g²
///   p -= lr · m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps)
/// Plain parameters all decay; see decay_groups.
class OLM_API AdamW final : public Optimizer {
 public:
  explicit AdamW(std::vector<ParameterGroup> groups, AdamWOptions options = {});
  explicit AdamW(const Tensors& parameters, AdamWOptions options = {});

 private:
  void update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) override;
  AdamWOptions options_;
};

struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0, weight_decay = 0;
  bool nesterov = false;
  double clip_norm = 0;  ///< 0: gradients are not clipped
  void fields(auto& v) {
    v("lr", lr);
    v("momentum", momentum);
    v("weight_decay", weight_decay);
    v("nesterov", nesterov);
    v("clip_norm", clip_norm);
  }
};

/// Stochastic gradient descent with momentum, as in PyTorch (Sutskever et al. 2013):
///   g += weight_decay·p    b = momentum·b + g    p -= lr · (nesterov ? g + momentum·b : b)
class OLM_API SGD final : public Optimizer {
 public:
  explicit SGD(std::vector<ParameterGroup> groups, SGDOptions options = {});
  explicit SGD(const Tensors& parameters, SGDOptions options = {});

 private:
  void update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) override;
  SGDOptions options_;
};

struct LionOptions {
  double lr = 1e-4;
  std::array<double, 2> betas = {0.9, 0.99};
  double weight_decay = 0;
  double clip_norm = 0;  ///< 0: gradients are not clipped
  void fields(auto& v) {
    v("lr", lr);
    v("beta1", betas[0]);
    v("beta2", betas[1]);
    v("weight_decay", weight_decay);
    v("clip_norm", clip_norm);
  }
};

/// Lion (Chen et al. 2023, arXiv:2302.06675):
///   p *= 1 - lr·weight_decay    p -= lr · sign(b1·m + (1-b1)·g)    m = b2·m + (1-b2)·g
class OLM_API Lion final : public Optimizer {
 public:
  explicit Lion(std::vector<ParameterGroup> groups, LionOptions options = {});
  explicit Lion(const Tensors& parameters, LionOptions options = {});

 private:
  void update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) override;
  LionOptions options_;
};

struct MuonOptions {
  double lr = 1e-3;
  double momentum = 0.95;
  bool nesterov = true;
  double weight_decay = 0.1;
  /// Matrices move by as much as AdamW would move them, so that its learning rates and decay serve;
  /// else by o · sqrt(max(1, M / N)), the first Muon's, which wants a rate of about 0.02.
  bool match_adamw = true;
  int64_t iterations = 5;
  DType dtype = bf16;                         ///< in which matrices are multiplied, or f32
  std::array<double, 2> betas = {0.9, 0.95};  ///< with eps, of the other parameters
  double eps = 1e-8;
  double clip_norm = 0;  ///< 0: gradients are not clipped
  void fields(auto& v) {
    v("lr", lr);
    v("momentum", momentum);
    v("nesterov", nesterov);
    v("weight_decay", weight_decay);
    v("match_adamw", match_adamw);
    v("iterations", iterations);
    v("dtype", dtype);
    v("beta1", betas[0]);
    v("beta2", betas[1]);
    v("eps", eps);
    v("clip_norm", clip_norm);
  }
};

class Module;
/// Groups for Muon: matrices between the embedding and the head, which are orthogonalized, and
/// others, with weight decay; vectors and scalars without. Others are parameters of three and more
/// dimensions; tables, which are those of layers whose flops_per_token() is 0; and heads, those of
/// an OutputHead, and of a Linear with which the model ends, in Blocks within Blocks.
OLM_API std::vector<ParameterGroup> muon_groups(Module& model, double weight_decay);

/// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025,
/// arXiv:2502.16982) for matrices p: [M,N], and AdamW for all else. Matrices keep one moment, and
/// move along the orthogonalized momentum:
///   b = momentum·b + (1-momentum)·g    d = nesterov ? momentum·b + (1-momentum)·g : b
///   p *= 1 - lr·weight_decay    p -= lr · 0.2 sqrt(max(M, N)) · raw::orthogonalize(d)
/// That multiplies matrices for at most 5 min(M, N) / tokens of the operations of forward and
/// backward: of steps of few tokens a good part, of large ones little. See muon_groups().
class OLM_API Muon final : public Optimizer {
 public:
  explicit Muon(std::vector<ParameterGroup> groups, MuonOptions options = {});
  explicit Muon(const Tensors& parameters, MuonOptions options = {});

 private:
  void update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) override;
  MuonOptions options_;
};

/// The learning rate of step t = 0, 1, …: warm-up lr·(t+1)/warmup_steps for t < warmup_steps, then
///   constant  lr
///   linear    from lr to min_lr at total_steps
///   cosine    min_lr + (lr - min_lr)·(1 + cos(pi·u))/2, u = min(1, (t - warmup)/(total - warmup))
///   wsd       lr until total_steps - decay_steps, then linear to min_lr (warm-up, stable, decay;
///   Hu
///             et al. 2024, arXiv:2404.06395)
struct OLM_API Schedule {
  std::string kind = "cosine";
  double lr = 1e-3, min_lr = 0;
  int64_t warmup_steps = 0, total_steps = 0, decay_steps = 0;
  void fields(auto& v) {
    v("kind", kind);
    v("lr", lr);
    v("min_lr", min_lr);
    v("warmup_steps", warmup_steps);
    v("total_steps", total_steps);
    v("decay_steps", decay_steps);
  }
  /// Throws for an unknown kind, listing the known ones.
  double at(int64_t step) const;
};

}  // namespace olm::nn
