#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include <olm/engine/raw.h>
#include <olm/nn/module.h>

namespace olm::nn {

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

/// True where both are the same values once they are of `dtype`.
bool same_values(const Tensor& a, const Tensor& b, DType dtype) {
  if (a.is_same(b) || a.device() == meta) return true;
  const auto bytes_of = [&](const Tensor& t) {
    return raw::contiguous(raw::cast(raw::to(t, cpu), dtype));
  };
  const Tensor x = bytes_of(a), y = bytes_of(b);
  return std::memcmp(x.data(), y.data(), size_t(x.numel()) * size_of(dtype)) == 0;
}

}  // namespace

void Module::load_state_dict(const std::vector<NamedTensor>& tensors, LoadOptions options) {
  std::map<std::string, Tensor> by_name;
  for (const auto& [key, tensor] : tensors)
    require(by_name.emplace(key, tensor).second, "load_state_dict: key ", key, " comes twice");
  load_state_dict(by_name, options);
}

void Module::load_state_dict(const std::map<std::string, Tensor>& tensors, LoadOptions options) {
  std::vector<std::pair<Parameter*, Tensor>> fill;
  std::vector<std::pair<Buffer*, Tensor>> buffers;
  std::unordered_set<std::string> used;
  std::unordered_map<const TensorImpl*, std::pair<std::string, Tensor>> given;
  std::vector<std::pair<std::string, const TensorImpl*>> missing;
  // Values are held by aliases: those given may be the module's own, which filling gives new
  // memory.
  for_each_parameter([&](const std::string& key, Parameter& p) {
    const auto found = tensors.find(key);
    if (found == tensors.end()) return missing.emplace_back(key, &p.handle().impl()), void();
    check_entry(key, p.shape(), found->second);
    if (p.filled()) check_place(key, p.handle(), found->second);
    used.insert(key);
    const auto [first, fresh] = given.try_emplace(&p.handle().impl(), key, found->second);
    if (fresh) return fill.emplace_back(&p, raw::alias(found->second)), void();
    const auto& [first_key, values] = first->second;
    require(same_values(values, found->second, (p.filled() ? p.handle() : values).dtype()),
            "load_state_dict: ", first_key, " and ", key,
            " are one tensor in the model, but their values differ; untie them, or give one of "
            "them");
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

}  // namespace olm::nn
