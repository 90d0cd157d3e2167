#include <olm/nn/module.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/engine/raw.h>

namespace olm::nn {
namespace {

std::string join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

}  // namespace

// ---- walks -------------------------------------------------------------------------------------

std::string Module::path_hint(const std::string& name) const {
  const std::string here = parent_ ? parent_->path_hint(name_in_parent_) : "";
  return name.empty() ? here : join(here, name);
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

void Module::find_parameters(const std::string& prefix, std::vector<Found<Parameter>>& found) {
  for (const Slot& slot : slots_) {
    if (const auto* parameter = std::get_if<Parameter*>(&slot))
      found.push_back({join(prefix, (*parameter)->name()), *parameter, weak_from_this().lock()});
    else if (const auto* child = std::get_if<ChildSlot*>(&slot))
      (*child)->module()->find_parameters(join(prefix, (*child)->name()), found);
    else if (const auto* list = std::get_if<Children*>(&slot))
      for (const auto& item : (*list)->slots())
        item->module()->find_parameters(join(prefix, item->name()), found);
  }
}

void Module::find_modules(const std::string& path, std::vector<Found<Module>>& found) {
  found.push_back({path, this, weak_from_this().lock()});
  for (const auto& [name, slot] : children()) slot->module()->find_modules(join(path, name), found);
}

void Module::for_each_parameter(const ParameterVisitor& visit, const std::string& prefix) {
  std::vector<Found<Parameter>> found;
  find_parameters(prefix, found);
  for (const auto& [key, parameter, owner] : found) visit(key, *parameter);
}

void Module::for_each_own_parameter(const std::function<void(Parameter&)>& visit) {
  const std::shared_ptr<Module> alive = weak_from_this().lock();
  const std::vector<Slot> slots = slots_;
  for (const Slot& slot : slots)
    if (const auto* parameter = std::get_if<Parameter*>(&slot)) visit(**parameter);
}

void Module::for_each_buffer(const BufferVisitor& visit, const std::string& prefix) {
  std::vector<Found<Module>> modules;
  find_modules(prefix, modules);
  std::vector<std::pair<std::string, Buffer*>> buffers;
  for (const auto& [path, module, owner] : modules)
    for (const Slot& slot : module->slots_)
      if (const auto* buffer = std::get_if<Buffer*>(&slot))
        buffers.emplace_back(join(path, (*buffer)->name()), *buffer);
  for (const auto& [key, buffer] : buffers) visit(key, *buffer);
}

void Module::for_each_module(const ModuleVisitor& visit, const std::string& path) {
  std::vector<Found<Module>> found;
  find_modules(path, found);
  for (const auto& [where, module, owner] : found) visit(where, *module);
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

namespace {

/// Visits a module and those below it, with the share of tokens that each computes.
void for_each_share(Module& module, double share,
                    const std::function<void(Module&, double share)>& visit) {
  visit(module, share);
  for (const auto& [name, slot] : module.children())
    for_each_share(*slot->module(), share * module.share_of_tokens(*slot), visit);
}

}  // namespace

double forward_flops_per_token(Module& model, int64_t context) {
  double flops = 0;
  for_each_share(model, 1, [&](Module& module, double share) {
    flops += share * module.flops_per_token(context);
  });
  return flops;
}

int64_t active_parameters(Module& model) {
  std::unordered_map<const TensorImpl*, double> elements;  // of tied ones the largest share
  for_each_share(model, 1, [&](Module& module, double share) {
    module.for_each_own_parameter([&](Parameter& p) {
      double& active = elements[&p.handle().impl()];
      active = std::max(active, share * double(p.shape().numel()));
    });
  });
  double total = 0;
  for (const auto& [impl, active] : elements) total += active;
  return std::llround(total);
}

Tensors Module::leaves() {
  Tensors result = parameters();
  std::unordered_set<const Module*> seen;
  for_each_module([&](const std::string&, Module& module) {
    if (!seen.insert(&module).second) return;
    const Tensors own = module.own_leaves();
    result.insert(result.end(), own.begin(), own.end());
  });
  return result;
}

int64_t Module::num_parameters(bool trainable_only) {
  int64_t total = 0;
  for (const Tensor& t : parameters())
    if (!trainable_only || requires_grad(t)) total += t.numel();
  return total;
}

void Module::zero_grad() {
  for (const Tensor& t : leaves()) olm::zero_grad(t);
}

void Module::to(Device device) {
  // All is copied before anything moves: a device without room for it leaves the model as it was.
  std::vector<std::pair<Parameter*, Tensor>> parameters;
  std::vector<std::pair<Buffer*, Tensor>> buffers;
  std::unordered_set<const TensorImpl*> seen;
  for_each_parameter([&](const std::string&, Parameter& p) {
    if (p.filled() && !p.is_elsewhere() && seen.insert(&p.handle().impl()).second)
      parameters.emplace_back(&p, raw::to(p.tensor(), device));
  });
  for_each_buffer([&](const std::string&, Buffer& b) {
    buffers.emplace_back(&b, raw::to(b.tensor(), device));
  });
  for (const auto& [p, values] : parameters) p->assign(values);
  for (const auto& [b, values] : buffers) b->assign(values);
}

void Module::to(DType dtype) {
  require(is_float(dtype), "to: parameters want a float dtype, got ", dtype);
  for_each_parameter([&](const std::string&, Parameter& p) {
    if (p.filled()) p.assign(raw::cast(p.tensor(), dtype));
  });
}

// ---- reaching in -------------------------------------------------------------------------------

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

// ---- computing ---------------------------------------------------------------------------------

Tensor Module::operator()(const Tensor& x) {
  Context ctx;
  return forward(x, ctx);
}

ResidualStream Module::operator()(ResidualStream& in, Context& ctx) {
  if (fuses_) return forward_residual(in, ctx, FusedCall());
  return forward(in.total(), ctx);
}

ResidualStream Module::forward_residual(ResidualStream& in, Context& ctx, FusedCall) {
  return forward(in.total(), ctx);
}

Tensor Module::loss(ResidualStream in, const Tensor& targets, Context& ctx,
                    const CrossEntropyOptions& options) {
  require(options.reduction != Reduction::none, "loss: wanted mean or sum as reduction");
  const Tensor logits = forward(in.total(), ctx);
  return with_aux_losses(cross_entropy(logits, targets, options), targets, ctx, options);
}

Tensor Module::with_aux_losses(Tensor loss, const Tensor& targets, const Context& ctx,
                               const CrossEntropyOptions& options) {
  if (ctx.aux_losses.empty()) return loss;
  Tensor weight;  // the number of targets, counted where they are: reading it would wait for them
  if (options.reduction == Reduction::sum)
    weight = sum(cast(ne(targets, double(options.ignore_index)), loss.dtype()));
  for (const Tensor& aux : ctx.aux_losses) loss = loss + (weight.defined() ? aux * weight : aux);
  return loss;
}

}  // namespace olm::nn
