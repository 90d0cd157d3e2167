#pragma once
// Handles to modules, and the places of a module that hold its children. Included by module.h,
// which completes them.
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <olm/engine/tensor.h>
#include <olm/nn/context.h>

namespace olm::nn {

class Module;

/// A shared handle to a module that can be called. Copying it shares the module.
template <class M>
class Ref {
 public:
  Ref() = default;
  Ref(std::shared_ptr<M> module) : module_(std::move(module)) {}
  template <class Other>
  requires(std::is_convertible_v<Other*, M*>) Ref(const Ref<Other>& other)
      : module_(other.shared()) {}
  template <class Other>
  requires(std::is_convertible_v<Other*, M*>) Ref(std::shared_ptr<Other> other)
      : module_(std::move(other)) {}

  M* operator->() const { return module_.get(); }
  M& operator*() const { return *module_; }
  M* get() const { return module_.get(); }
  explicit operator bool() const { return module_ != nullptr; }
  const std::shared_ptr<M>& shared() const { return module_; }
  bool operator==(const Ref& other) const = default;

  /// forward, with a default Context (inference) in the first form.
  Tensor operator()(const Tensor& x) const {
    Context ctx;
    return module_->forward(x, ctx);
  }
  Tensor operator()(const Tensor& x, Context& ctx) const { return module_->forward(x, ctx); }
  /// The same of a sum not yet added.
  ResidualStream operator()(ResidualStream& in, Context& ctx) const { return (*module_)(in, ctx); }

 private:
  std::shared_ptr<M> module_;
};

/// The untyped part of Child: a named place for a module.
class OLM_API ChildSlot {
 public:
  /// `listed`: the slot belongs to a Children list, which registers itself.
  ChildSlot(Module* owner, std::string name, Ref<Module> module, bool listed = false);
  ChildSlot(const ChildSlot&) = delete;
  ChildSlot& operator=(const ChildSlot&) = delete;
  virtual ~ChildSlot();
  const std::string& name() const { return name_; }
  const Ref<Module>& module() const { return module_; }
  /// Puts another module here.
  void replace(Ref<Module> module);
  /// True once replace() was called: the owner's options no longer describe this child.
  bool replaced() const { return replaced_; }

 protected:
  virtual void on_replace() {}
  Module* owner_;
  std::string name_;
  Ref<Module> module_;

 private:
  /// Throws for the owner, and for what holds it: walks over such a module would not end.
  void take_in(Module& module);
  void let_go();
  bool replaced_ = false;
};

/// A child that its owner calls. As M = Module (the default) any module can take its place; with a
/// concrete M the replacement may be any Module too, and typed() tells whether it is still an M.
template <class M = Module>
class Child final : public ChildSlot {
 public:
  Child(Module* owner, std::string name, Ref<M> module)
      : ChildSlot(owner, std::move(name), module), typed_(module.get()) {}
  Child& operator=(Ref<Module> module) {
    replace(std::move(module));
    return *this;
  }
  Tensor operator()(const Tensor& x, Context& ctx) const;
  ResidualStream operator()(ResidualStream& in, Context& ctx) const;
  Module* operator->() const { return module_.get(); }
  explicit operator bool() const { return bool(module_); }
  /// The child as an M, or null where it was replaced by something else.
  M* typed() const { return typed_; }

 private:
  void on_replace() override { typed_ = dynamic_cast<M*>(module_.get()); }
  M* typed_;
};

/// A list of children, keys `name.0`, `name.1`, ….
class OLM_API Children {
 public:
  Children(Module* owner, std::string name, std::vector<Ref<Module>> modules);
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  size_t size() const { return slots_.size(); }
  ChildSlot& operator[](size_t i) { return slot(i); }
  const Ref<Module>& at(size_t i) const { return slot(i).module(); }
  const std::string& name() const { return name_; }
  /// Puts another module at i.
  void replace(size_t i, Ref<Module> module) { slot(i).replace(std::move(module)); }
  void push_back(Ref<Module> module);
  const std::vector<std::unique_ptr<ChildSlot>>& slots() const { return slots_; }

 private:
  ChildSlot& slot(size_t i) const {
    require(i < size(), name_, ": wanted an index below ", size(), ", got ", i);
    return *slots_[i];
  }
  Module* owner_;
  std::string name_;
  std::vector<std::unique_ptr<ChildSlot>> slots_;
};

}  // namespace olm::nn
