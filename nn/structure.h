#pragma once
// The Block system: ordered containers and combinators.
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// Runs its children in order. Where a Residual is followed by a norm, the sum and the norm are
/// fused; the result and the keys stay the same. Keys: blocks.{i}. A class derived from it that
/// overrides forward is asked for that, and its loss is the cross-entropy of that.
class OLM_API BlockModule : public Module {
 public:
  explicit BlockModule(std::vector<Ref<Module>> blocks)
      : blocks(this, "blocks", std::move(blocks)) {}
  Tensor forward(const Tensor& x, Context& ctx) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override;
  /// Runs all children but the last and asks that one for its loss.
  Tensor loss(ResidualStream in, const Tensor& targets, Context& ctx,
              const CrossEntropyOptions& options = {}) override;
  std::string type_name() const override { return "Block"; }
  bool describes_children() const override { return true; }
  Children blocks;
};
OLM_API Ref<BlockModule> Block(std::vector<Ref<Module>> blocks);

/// Base of structures that are no plain sequence: derive, hold Child<> members, write forward. The
/// children are part of its description: what layers() holds under its name is given them.
class OLM_API BaseCombinator : public Module {
 public:
  bool describes_children() const override { return true; }
};

/// x + block(x). Key: block.
class OLM_API ResidualModule final : public BaseCombinator {
 public:
  explicit ResidualModule(Ref<Module> block) : block(this, "block", std::move(block)) {}
  Tensor forward(const Tensor& x, Context& ctx) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override;
  std::string type_name() const override { return "Residual"; }
  Child<> block;
};
OLM_API Ref<ResidualModule> Residual(Ref<Module> block);

/// num_repeat independent layers in order, each made by the factory. Keys: stack.{i}. `recompute`
/// is a way to run, not part of what is saved: layers then keep no activations, and are computed
/// again in backward, each with the same random state.
class OLM_API RepeatModule final : public BaseCombinator {
 public:
  explicit RepeatModule(std::vector<Ref<Module>> stack) : stack(this, "stack", std::move(stack)) {}
  Tensor forward(const Tensor& x, Context& ctx) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override;
  std::string type_name() const override { return "Repeat"; }
  Children stack;
  bool recompute = false;
};
/// Has every Repeat of a model recompute, or none; one within another that recomputes has no need
/// to. Returns how many do.
OLM_API int64_t set_recompute(Module& model, bool recompute);
OLM_API Ref<RepeatModule> make_repeat(const std::function<Ref<Module>()>& factory,
                                      int64_t num_repeat);
/// Takes a factory, so that each layer has weights of its own.
template <class Factory>
Ref<RepeatModule> Repeat(Factory&& factory, int64_t num_repeat) {
  static_assert(std::is_invocable_v<Factory&>,
                "Repeat wants a factory such as [&] { return Block({…}); }: an instance would "
                "share one set of weights among all repetitions");
  return make_repeat([&]() -> Ref<Module> { return factory(); }, num_repeat);
}

/// How Parallel joins its branches: `fn(outputs, dim)`, and a name by which it can be saved.
struct Merge {
  using Function = std::function<Tensor(const Tensors& outputs, int64_t dim)>;
  std::string name;
  Function fn;
  Merge() = default;
  Merge(std::string name, Function fn) : name(std::move(name)), fn(std::move(fn)) {}
  template <class F>
  requires(std::is_invocable_r_v<Tensor, F&, const Tensors&, int64_t>) Merge(F fn)
      : fn(std::move(fn)) {}
};
namespace merge {
OLM_API Merge sum();   ///< elementwise, whatever the dim
OLM_API Merge mean();  ///< elementwise
OLM_API Merge cat();   ///< along dim
}  // namespace merge

struct ParallelOptions {
  std::string merge = "sum";
  int64_t dim = -1;
  void fields(auto& v) {
    v("merge", merge);
    v("dim", dim);
  }
};
/// The same x through several branches, joined by `merge`. Keys: blocks.{i}.
class OLM_API ParallelModule final : public BaseCombinator {
 public:
  ParallelModule(std::vector<Ref<Module>> blocks, Merge merge, int64_t dim);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "Parallel"; }
  void visit_options(FieldVisitor& v) override;
  void visit_default_options(FieldVisitor& v) override { ParallelOptions().fields(v); }
  ParallelOptions options;
  Children blocks;

 private:
  Merge merge_;
};
OLM_API Ref<ParallelModule> Parallel(std::vector<Ref<Module>> blocks, Merge merge = merge::sum(),
                                     int64_t dim = -1);

/// module(x) without keeping its activations: they are computed again in backward.
OLM_API Tensor recomputed(Ref<Module> module, const Tensor& x, Context& ctx);

/// Runs `block` without keeping its activations and computes them again in backward. Key: block.
class OLM_API RecomputeModule final : public BaseCombinator {
 public:
  explicit RecomputeModule(Ref<Module> block) : block(this, "block", std::move(block)) {}
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "Recompute"; }
  Child<> block;
};
OLM_API Ref<RecomputeModule> Recompute(Ref<Module> block);

}  // namespace olm::nn
