#include <olm/nn/child.h>

#include <olm/nn/module.h>

namespace olm::nn {

ChildSlot::ChildSlot(Module* owner, std::string name, Ref<Module> module, bool listed)
    : owner_(owner), name_(std::move(name)), module_(std::move(module)) {
  require(bool(module_), owner->path_hint(name_), ": a module was wanted, got none");
  take_in(*module_);
  if (!listed) owner->slots_.push_back(this);
}

ChildSlot::~ChildSlot() { let_go(); }

void ChildSlot::take_in(Module& module) {
  module.for_each_module([&](const std::string& path, const Module& inner) {
    // Asked only where it fails: while its members are made an owner has no type_name().
    if (&inner == owner_)
      fail("a module cannot be its own child: ", owner_->path_hint(name_), " would be this ",
           owner_->type_name(), path.empty() ? "" : ", at ", path);
  });
  module.parent_ = owner_;
  module.name_in_parent_ = name_;
}

// Its owner may go before the module does, which then must not look for it.
void ChildSlot::let_go() {
  if (module_->parent_ == owner_) module_->parent_ = nullptr;
}

void ChildSlot::replace(Ref<Module> module) {
  require(bool(module), "replace: ", name_, " wants a module");
  take_in(*module);
  if (module != module_) let_go();
  module_ = std::move(module);
  replaced_ = true;
  on_replace();
}

Children::Children(Module* owner, std::string name, std::vector<Ref<Module>> modules)
    : owner_(owner), name_(std::move(name)) {
  for (Ref<Module>& module : modules) push_back(std::move(module));
  owner->slots_.push_back(this);
}

void Children::push_back(Ref<Module> module) {
  const std::string name = name_ + "." + std::to_string(slots_.size());
  slots_.push_back(std::make_unique<ChildSlot>(owner_, name, std::move(module), true));
}

}  // namespace olm::nn
