#include <olm/nn/module.h>

#include <algorithm>
#include <unordered_set>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/engine/raw.h>

namespace olm::nn {
namespace {

/// Puts other memory behind a handle; whoever holds the handle sees it.
void reseat(const Tensor& handle, const Tensor& values) {
  TensorImpl& impl = handle.impl();
  impl.storage = values.impl().storage;
  impl.shape = values.shape();
  impl.strides = values.strides();
  impl.offset = values.storage_offset();
  impl.dtype = values.dtype();
}

std::string join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

}  // namespace

// ---- Parameter, Buffer
// ---------------------------------------------------------------------------

Parameter::Parameter(Module* owner, std::string name, Shape shape, InitRule rule)
    : owner_(owner), name_(std::move(name)), state_(std::make_shared<State>()) {
  state_->tensor = empty(shape, {.device = meta});
  state_->rule = std::move(rule);
  set_requires_grad(state_->tensor);
  owner->slots_.push_back(this);
}

Parameter& Parameter::operator=(const Parameter& other) {
  require(shape() == other.shape(), "parameter ", name_, " ", shape(), " cannot be tied to ",
          other.name_, " ", other.shape());
  state_ = other.state_;
  return *this;
}

const Tensor& Parameter::tensor() const {
  require(state_->filled, "parameter ", join(owner_->path_hint(), name_),
          " has no values yet; call init(model) or load weights");
  return state_->tensor;
}

void Parameter::assign(const Tensor& values) {
  require(values.shape() == shape(), "parameter ", name_, " wants shape ", shape(), ", got ",
          values.shape());
  require_float("parameter", values);
  olm::zero_grad(state_->tensor);
  reseat(state_->tensor, values);
  state_->filled = true;
}

void Parameter::set_trainable(bool trainable) { set_requires_grad(state_->tensor, trainable); }
bool Parameter::trainable() const { return requires_grad(state_->tensor); }

Buffer::Buffer(Module* owner, std::string name, Tensor values, bool persistent)
    : name_(std::move(name)), tensor_(std::move(values)), persistent_(persistent) {
  owner->slots_.push_back(this);
}

void Buffer::assign(const Tensor& values) {
  require(values.shape() == tensor_.shape() && values.dtype() == tensor_.dtype(), "buffer ", name_,
          " wants ", tensor_.dtype(), " ", tensor_.shape(), ", got ", values.dtype(), " ",
          values.shape());
  reseat(tensor_, values);
}

// ---- children
// ------------------------------------------------------------------------------------

ChildSlot::ChildSlot(Module* owner, std::string name, Ref<Module> module, bool listed)
    : owner_(owner), name_(std::move(name)), module_(std::move(module)) {
  require(bool(module_), owner->path_hint(), ": child ", name_, " is no module");
  module_->parent_ = owner;
  module_->name_in_parent_ = name_;
  if (!listed) owner->slots_.push_back(this);
}

void ChildSlot::replace(Ref<Module> module) {
  require(bool(module), "replace: ", name_, " wants a module");
  module_ = std::move(module);
  module_->parent_ = owner_;
  module_->name_in_parent_ = name_;
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

// ---- walks
// ---------------------------------------------------------------------------------------

std::string Module::path_hint() const {
  if (!parent_) return "";
  return join(parent_->path_hint(), name_in_parent_);
}

std::vector<std::pair<std::string, ChildSlot*>> Module::children() {
  std::vector<std::pair<std::string, ChildSlot*>> result;
  for (const Slot& slot : slots_) {
    if (const auto* child = std::get_if<ChildSlot*>(&slot))
      result.emplace_back((*child)->name(), *child);
    else if (const auto* list = std::get_if<Children*>(&slot))
      for (const auto& item : (*list)->slots()) result.emplace_back(item->name(), item.get());
  }
  return result;
}

void Module::for_each_parameter(const ParameterVisitor& visit, const std::string& prefix) {
  for (const Slot& slot : slots_) {
    if (const auto* parameter = std::get_if<Parameter*>(&slot))
      visit(join(prefix, (*parameter)->name()), **parameter);
    else if (const auto* child = std::get_if<ChildSlot*>(&slot))
      (*child)->module()->for_each_parameter(visit, join(prefix, (*child)->name()));
    else if (const auto* list = std::get_if<Children*>(&slot))
      for (const auto& item : (*list)->slots())
        item->module()->for_each_parameter(visit, join(prefix, item->name()));
  }
}

void Module::for_each_own_parameter(const std::function<void(Parameter&)>& visit) {
  for (const Slot& slot : slots_)
    if (const auto* parameter = std::get_if<Parameter*>(&slot)) visit(**parameter);
}

void Module::for_each_buffer(const BufferVisitor& visit, const std::string& prefix) {
  for_each_module(
      [&](const std::string& path, Module& module) {
        for (const Slot& slot : module.slots_)
          if (const auto* buffer = std::get_if<Buffer*>(&slot))
            visit(join(path, (*buffer)->name()), **buffer);
      },
      prefix);
}

void Module::for_each_module(const ModuleVisitor& visit, const std::string& path) {
  visit(path, *this);
  for (const auto& [name, slot] : children())
    slot->module()->for_each_module(visit, join(path, name));
}

std::vector<NamedTensor> Module::named_parameters() {
  std::vector<NamedTensor> result;
  std::unordered_set<const TensorImpl*> seen;
  for_each_parameter([&](const std::string& key, Parameter& p) {
    if (seen.insert(&p.handle().impl()).second) result.emplace_back(key, p.handle());
  });
  return result;
}

Tensors Module::parameters() {
  Tensors result;
  for (auto& [key, tensor] : named_parameters()) result.push_back(tensor);
  return result;
}

std::vector<NamedTensor> Module::state_dict() {
  std::vector<NamedTensor> result;
  for_each_parameter(
      [&](const std::string& key, Parameter& p) { result.emplace_back(key, p.tensor()); });
  for_each_buffer([&](const std::string& key, Buffer& b) {
    if (b.persistent()) result.emplace_back(key, b.tensor());
  });
  return result;
}

double Module::flops_per_token(int64_t) {
  double elements = 0;
  for_each_own_parameter([&](Parameter& p) {
    if (p.shape().rank() >= 2) elements += double(p.shape().numel());
  });
  return 2 * elements;
}

double forward_flops_per_token(Module& model, int64_t context) {
  double flops = 0;
  model.for_each_module(
      [&](const std::string&, Module& module) { flops += module.flops_per_token(context); });
  return flops;
}

int64_t Module::num_parameters(bool trainable_only) {
  int64_t total = 0;
  for (const Tensor& t : parameters())
    if (!trainable_only || requires_grad(t)) total += t.numel();
  return total;
}

void Module::zero_grad() {
  for (const Tensor& t : parameters()) olm::zero_grad(t);
}

void Module::to(Device device) {
  for_each_parameter([&](const std::string&, Parameter& p) {
    if (p.filled()) p.assign(raw::to(p.tensor(), device));
  });
  for_each_buffer([&](const std::string&, Buffer& b) { b.assign(raw::to(b.tensor(), device)); });
}

void Module::to(DType dtype) {
  require(is_float(dtype), "to: parameters want a float dtype, got ", dtype);
  for_each_parameter([&](const std::string&, Parameter& p) {
    if (p.filled()) p.assign(raw::cast(p.tensor(), dtype));
  });
}

// ---- loading
// -------------------------------------------------------------------------------------

void Module::load_state_dict(const std::vector<NamedTensor>& tensors, LoadOptions options) {
  std::map<std::string, Tensor> by_name;
  for (const auto& [key, tensor] : tensors)
    require(by_name.emplace(key, tensor).second, "load_state_dict: key ", key, " comes twice");
  load_state_dict(by_name, options);
}

namespace {
/// Throws where a tensor does not fit its key, before anything is changed.
void check_entry(const std::string& key, const Shape& wanted, const Tensor& got) {
  require(got.shape() == wanted, "load_state_dict: ", key, " wants shape ", wanted, ", got ",
          got.shape());
  require(is_float(got.dtype()), "load_state_dict: ", key, " wants a float dtype, got ",
          got.dtype());
}
/// Likewise where its values cannot be brought to what is filled already.
void check_place(const std::string& key, const Tensor& held, const Tensor& got) {
  require(held.device() == got.device() || (held.device() != meta && got.device() != meta),
          "load_state_dict: ", key, " is on ", held.device(), " and its values on ", got.device(),
          ", but meta keeps none");
}
}  // namespace

void Module::load_state_dict(const std::map<std::string, Tensor>& tensors, LoadOptions options) {
  std::vector<std::pair<Parameter*, Tensor>> fill;
  std::vector<std::pair<Buffer*, Tensor>> buffers;
  std::unordered_set<std::string> used;
  std::unordered_set<const TensorImpl*> given;
  std::vector<std::pair<std::string, const TensorImpl*>> missing;
  for_each_parameter([&](const std::string& key, Parameter& p) {
    const auto found = tensors.find(key);
    if (found == tensors.end()) return missing.emplace_back(key, &p.handle().impl()), void();
    check_entry(key, p.shape(), found->second);
    if (p.filled()) check_place(key, p.handle(), found->second);
    used.insert(key);
    given.insert(&p.handle().impl());
    fill.emplace_back(&p, found->second);
  });
  for_each_buffer([&](const std::string& key, Buffer& b) {
    if (!b.persistent()) return;
    const auto found = tensors.find(key);
    if (found == tensors.end()) return missing.emplace_back(key, nullptr), void();
    const Tensor &held = b.tensor(), &got = found->second;
    require(got.shape() == held.shape() && got.dtype() == held.dtype(), "load_state_dict: ", key,
            " wants ", held.dtype(), " ", held.shape(), ", got ", got.dtype(), " ", got.shape());
    check_place(key, held, got);
    used.insert(key);
    buffers.emplace_back(&b, found->second);
  });
  if (options.strict) {
    for (const auto& [key, impl] : missing)
      require(impl && given.count(impl), "load_state_dict: key ", key, " is missing");
    for (const auto& [key, tensor] : tensors)
      require(used.count(key), "load_state_dict: key ", key, " belongs to no parameter");
  }
  for (const auto& [p, tensor] : fill) {
    const Tensor& like = p->filled() ? p->handle() : tensor;
    p->assign(raw::clone(raw::to(raw::cast(tensor, like.dtype()), like.device())));
  }
  for (const auto& [b, tensor] : buffers)
    b->assign(raw::clone(raw::to(tensor, b->tensor().device())));
}

// ---- reaching in
// ---------------------------------------------------------------------------------

Parameter& Module::parameter(std::string_view key) {
  Parameter* found = nullptr;
  std::string known;
  for_each_parameter([&](const std::string& name, Parameter& p) {
    if (name == key && !found) found = &p;
    if (known.size() < 400) known += (known.empty() ? "" : ", ") + name;
  });
  require(found != nullptr, "parameter: no key \"", key, "\"; known are ", known,
          known.size() < 400 ? "" : ", …");
  return *found;
}

ChildSlot& Module::slot(std::string_view path) {
  for (const auto& [name, slot] : children()) {
    if (path == name) return *slot;
    if (path.starts_with(name) && path.size() > name.size() && path[name.size()] == '.')
      return slot->module()->slot(path.substr(name.size() + 1));
  }
  std::string known;
  for (const auto& [name, slot] : children()) known += (known.empty() ? "" : ", ") + name;
  fail("no module at \"", path, "\" in a ", type_name(), "; its children are ",
       known.empty() ? "none" : known);
}

std::shared_ptr<Module> Module::get_shared(std::string_view path) {
  if (!path.empty()) return slot(path).module().shared();
  auto self = weak_from_this().lock();
  require(self != nullptr, "get: no Ref holds this ", type_name(), ", so there is none to share");
  return self;
}
Ref<Module> Module::get(std::string_view path) { return get_shared(path); }
void Module::replace(std::string_view path, Ref<Module> module) {
  slot(path).replace(std::move(module));
}

void Module::freeze(std::string_view path, bool frozen) {
  Module& module = path.empty() ? *this : *slot(path).module();
  module.for_each_parameter([&](const std::string&, Parameter& p) { p.set_trainable(!frozen); });
}

Json Module::default_options_json() {
  JsonWriter writer;
  visit_default_options(writer);
  return writer.result();
}

Json Module::options_json() {
  JsonWriter writer;
  visit_options(writer);
  return writer.result();
}

// ---- computing
// -----------------------------------------------------------------------------------

Tensor Module::operator()(const Tensor& x) {
  Context ctx;
  return forward(x, ctx);
}

Tensor Sum::total() const { return delta.defined() ? x + delta : x; }

Sum Module::forward_sum(const Sum& in, Context& ctx) {
  Tensor total;
  return {.x = forward_with_total(in, total, ctx), .delta = {}};
}

Tensor Module::loss_sum(const Sum& in, const Tensor& targets, Context& ctx) {
  return loss(in.total(), targets, ctx);
}

Tensor Module::forward_with_total(const Sum& in, Tensor& total, Context& ctx) {
  total = in.total();
  return forward(total, ctx);
}

Tensor Module::loss(const Tensor& x, const Tensor& targets, Context& ctx) {
  Tensor total = cross_entropy(forward(x, ctx), targets);
  for (const Tensor& aux : ctx.aux_losses) total = total + aux;
  return total;
}

}  // namespace olm::nn
