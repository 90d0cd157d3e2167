#pragma once
// Modules: layers with parameters, children, and a description from which they can be rebuilt.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/tape.h>
#include <olm/nn/child.h>
#include <olm/nn/context.h>
#include <olm/nn/fields.h>
#include <olm/nn/parameter.h>

namespace olm::nn {

/// Without one nobody can call Module::forward_residual, and Module::operator() alone makes them.
class FusedCall {
  friend class Module;
  FusedCall() = default;
};

using NamedTensor = std::pair<std::string, Tensor>;

struct LoadOptions {
  bool strict = true;  ///< every key must be there, and no other
  /// Parameters share memory with the values where dtype and device allow it. Otherwise they get
  /// memory of their own.
  bool alias = false;
  bool check_only = false;  ///< throws where something does not fit, and changes nothing
};

/// A layer, a combinator or a model: what has a forward. Members of type Parameter, Buffer, Child
/// and Children name and register themselves with `this`; everything below is a walk over them.
/// Made by make(), which looks at how the class computes.
class OLM_API Module : public std::enable_shared_from_this<Module> {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// What the layer computes.
  virtual Tensor forward(const Tensor& x, Context& ctx) = 0;
  /// The same of a sum not yet added. May be overridden beside forward, in the same class and to
  /// the same result, by structures and norms, so that addition and norm fuse; a class that
  /// overrides forward alone is never gone around. What needs the sum takes it from in.total(),
  /// which leaves it there for the caller. To call it: (*module)(in, ctx).
  virtual ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall);
  /// Cross-entropy of forward(in) against `targets` (ids), plus what layers put into
  /// ctx.aux_losses. By default the mean over the targets that count (-100 is ignored). With
  /// Reduction::sum it is that mean times count_targets(targets), so that batches of different
  /// numbers of targets add up:
  ///   for (batch …) {
  ///     Context ctx{.dtype = bf16, .rng = &rng};  // of one forward: it gathers aux_losses
  ///     backward(model->loss(inputs, targets, ctx, {.reduction = Reduction::sum}));
  ///     n += count_targets(targets);
  ///   }
  ///   optimizer.step({.gradient_scale = 1.0 / n});
  /// Throws for Reduction::none. An override repeats the default of `options`.
  virtual Tensor loss(ResidualStream in, const Tensor& targets, Context& ctx,
                      const CrossEntropyOptions& options = {});
  Tensor operator()(const Tensor& x);
  Tensor operator()(const Tensor& x, Context& ctx) { return forward(x, ctx); }
  /// forward_residual where the class has one that goes with its forward, else forward of the sum.
  ResidualStream operator()(ResidualStream& in, Context& ctx);

  /// The layer's name in the registry, and its options: what model.json says of it.
  virtual std::string type_name() const = 0;
  virtual void visit_options(FieldVisitor&) {}
  /// The same of a layer whose options were all left at their defaults.
  virtual void visit_default_options(FieldVisitor&) {}
  /// True where children are given from outside (Block, Residual): they are part of the
  /// description. Layers that build their own children describe only those that were replaced.
  virtual bool describes_children() const { return false; }
  /// One line for summaries: options that are not the default's business, such as sizes.
  Json options_json();
  Json default_options_json();
  /// Floating-point operations of this module itself, without its children, in forward of one
  /// token of a sequence of `context`: two for each element of its matrices.
  virtual double flops_per_token(int64_t context);
  /// Leaves beside parameters on which forward of this module alone depends: second handles on
  /// parameters, whose gradients are kept apart.
  virtual Tensors own_leaves() { return {}; }
  /// The share of all tokens that a direct child computes: 1 but for experts of a mixture.
  virtual double share_of_tokens(const ChildSlot&) { return 1; }

  /// Trained tensors, each once, in the order of their keys' first appearance.
  Tensors parameters();
  std::vector<NamedTensor> named_parameters();
  /// All at which gradients arrive: parameters(), and own_leaves() of all modules.
  Tensors leaves();
  /// All keys: parameters (tied ones under each of their keys) and persistent buffers.
  std::vector<NamedTensor> state_dict();
  /// Fills parameters and persistent buffers by key. What was filled before keeps its dtype and
  /// device; the rest takes those of the values. Of tied parameters one key is enough; where more
  /// are given their values must be the same. What does not fit throws and leaves the module as it
  /// was. Ties stay as they are.
  void load_state_dict(const std::vector<NamedTensor>& tensors, LoadOptions options = {});
  void load_state_dict(const std::map<std::string, Tensor>& tensors, LoadOptions options = {});
  /// Moves all parameters and buffers, or converts all parameters; handles stay the same. Those
  /// that another rank keeps stay where they are.
  void to(Device device);
  void to(DType dtype);
  /// Elements in parameters(); with `trainable_only`, without the frozen ones.
  int64_t num_parameters(bool trainable_only = false);
  void zero_grad();

  /// The parameter of a key; throws listing near keys. Assigning one to another ties them.
  Parameter& parameter(std::string_view key);
  /// The module at a path such as "blocks.2.blocks.1"; "" is this one, which a Ref must hold.
  Ref<Module> get(std::string_view path);
  template <class M>
  Ref<M> get(std::string_view path) {
    auto module = std::dynamic_pointer_cast<M>(get_shared(path));
    require(module != nullptr, "get: the module at \"", path, "\" is a ",
            get_shared(path)->type_name());
    return Ref<M>(std::move(module));
  }
  /// Puts another module at a path.
  void replace(std::string_view path, Ref<Module> module);
  /// Stops (or resumes) training of everything below a path; "" is all.
  void freeze(std::string_view path = "", bool frozen = true);

  using ParameterVisitor = std::function<void(const std::string& key, Parameter&)>;
  using BufferVisitor = std::function<void(const std::string& key, Buffer&)>;
  using ModuleVisitor = std::function<void(const std::string& path, Module&)>;
  /// Every key, tied ones included; every module, a parent before its children, shared ones each
  /// time. A walk visits what was there when it began, and all of that lives until it ends: a
  /// visitor may replace, add or take out modules. What it puts in is not visited, what it takes
  /// out still is.
  void for_each_parameter(const ParameterVisitor& visit, const std::string& prefix = "");
  void for_each_buffer(const BufferVisitor& visit, const std::string& prefix = "");
  void for_each_module(const ModuleVisitor& visit, const std::string& path = "");
  /// Parameters of this module itself, without its children's.
  void for_each_own_parameter(const std::function<void(Parameter&)>& visit);
  /// Direct children with their names ("blocks.0"), in order.
  std::vector<std::pair<std::string, ChildSlot*>> children();

 protected:
  /// `loss` with ctx.aux_losses, each counted once per target where the loss is a sum.
  static Tensor with_aux_losses(Tensor loss, const Tensor& targets, const Context& ctx,
                                const CrossEntropyOptions& options);
  /// True where forward is the one that class C declares, and not one of a class derived from it.
  template <class C>
  bool computes_as() const {
    return forward_of_ && *forward_of_ == typeid(C);
  }

 private:
  friend class Parameter;
  friend class Buffer;
  friend class ChildSlot;
  friend class Children;
  template <class M, class... Args>
  friend Ref<M> make(Args&&... args);
  /// What a walk visits, and the module that it is part of.
  template <class T>
  struct Found {
    std::string key;
    T* item;
    std::shared_ptr<Module> owner;
  };
  void find_parameters(const std::string& prefix, std::vector<Found<Parameter>>& found);
  void find_modules(const std::string& path, std::vector<Found<Module>>& found);
  template <class M>
  void look_at_overrides();
  std::shared_ptr<Module> get_shared(std::string_view path);
  ChildSlot& slot(std::string_view path);
  /// For messages: where this module is, as far as is known, or what it holds under `name`.
  std::string path_hint(const std::string& name = "") const;
  using Slot = std::variant<Parameter*, Buffer*, ChildSlot*, Children*>;
  std::vector<Slot> slots_;
  const Module* parent_ = nullptr;  // for messages: the last module that took this one in
  std::string name_in_parent_;
  bool fuses_ = false;  // forward_residual goes with forward
  const std::type_info* forward_of_ = nullptr;
};

namespace members {
/// The class that declares a member, from a pointer to it.
template <class R, class C>
std::type_identity<C> class_of(R C::*);
template <class M>
concept ShowsForward = requires {
  class_of(&M::forward);
  class_of(&M::forward_residual);
};
}  // namespace members

/// An override of forward hides what a base class can do to a stream, unless that was overridden
/// with it. Where the members cannot be seen, forward is what counts.
template <class M>
void Module::look_at_overrides() {
  if constexpr (members::ShowsForward<M>) {
    using Forward = typename decltype(members::class_of(&M::forward))::type;
    using Residual = typename decltype(members::class_of(&M::forward_residual))::type;
    constexpr bool same = std::is_same_v<Forward, Residual>;
    static_assert(same || !std::is_base_of_v<Forward, Residual>,
                  "forward_residual is overridden without forward: they must give the same");
    fuses_ = same;
    forward_of_ = &typeid(Forward);
  }
}

template <class M, class... Args>
Ref<M> make(Args&&... args) {
  auto module = std::make_shared<M>(std::forward<Args>(args)...);
  static_cast<Module&>(*module).template look_at_overrides<M>();
  return Ref<M>(std::move(module));
}

// A module may put another in its own place while it runs, hence the handles.
template <class M>
Tensor Child<M>::operator()(const Tensor& x, Context& ctx) const {
  const Ref<Module> module = module_;
  return module(x, ctx);
}
template <class M>
ResidualStream Child<M>::operator()(ResidualStream& in, Context& ctx) const {
  const Ref<Module> module = module_;
  return module(in, ctx);
}

/// A module whose options struct is a public member `options` with fields(): gives it its name and
/// description. `Base` is Module, or a base of a kind of layers such as ActivationBase.
template <class Options, class Base = Module>
class OLM_API Layer : public Base {
 public:
  explicit Layer(Options o) : options(std::move(o)) {}
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { Options().fields(v); }
  Options options;
};

struct InitOptions {
  uint64_t seed = 0;
  Device device = cpu;
  DType dtype = f32;
};
/// Fills every parameter by its rule, each from a random stream named by its key: with the same
/// values on every device. Buffers go to the device too. On `meta` nothing is allocated.
OLM_API void init(Module& model, InitOptions options = {});
/// GPT-2's rule (Radford et al. 2019): normal of deviation 0.02 for matrices, residual projections
/// (`out_proj`, `down_proj`) divided by sqrt(2 · num_layers), zero biases, unit norms.
OLM_API void init_gpt2(Module& model, int64_t num_layers, InitOptions options = {});
template <class M>
void init(const Ref<M>& model, InitOptions options = {}) {
  init(*model, options);
}
template <class M>
void init_gpt2(const Ref<M>& model, int64_t num_layers, InitOptions options = {}) {
  init_gpt2(*model, num_layers, options);
}

/// Floating-point operations of forward of one token of a sequence of `context`; backward takes
/// twice as many. Of a mixture of experts those that are chosen count.
OLM_API double forward_flops_per_token(Module& model, int64_t context);
/// Elements in parameters() that take part in computing one token: all but those of experts that
/// are not chosen.
OLM_API int64_t active_parameters(Module& model);

/// The tree of modules as a diagram, a line each: name, type, the options that differ from their
/// defaults, parameters with their shapes, and how many numbers those below it hold. Equal
/// neighbours such as the layers of a Repeat are one line with their number; tied and frozen
/// parameters are marked. The last line is the total, and of mixtures of experts what a token uses.
OLM_API std::string summary(Module& model);

}  // namespace olm::nn
