#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include <olm/engine/raw.h>
#include <olm/nn/module.h>

namespace olm::nn {

namespace {

/// What does not fit, gathered so that one message lists all of it before anything is changed.
class Misfits {
 public:
  template <class... Parts>
  void add(const Parts&... parts) {
    text_ += (text_.empty() ? "" : "; ") + detail::concat(parts...);
  }
  /// False, and noted, where a tensor does not fit its key.
  bool fits(const std::string& key, const Shape& wanted, const Tensor& got) {
    if (got.shape() != wanted)
      add(key, " wants shape ", wanted, ", got ", got.shape());
    else if (!is_float(got.dtype()))
      add(key, " wants a float dtype, got ", got.dtype());
    else
      return true;
    return false;
  }
  bool fits(const std::string& key, const TensorOptions& wanted, const Shape& shape,
            const Tensor& got) {
    const bool same = got.shape() == shape && got.dtype() == wanted.dtype;
    if (!same)
      add(key, " wants ", wanted.dtype, " ", shape, ", got ", got.dtype(), " ", got.shape());
    return same;
  }
  void throw_if_any() const { require(text_.empty(), "load_state_dict: ", text_); }

 private:
  std::string text_;
};

/// Likewise where its values cannot be brought to what is filled already.
void check_place(const std::string& key, const Tensor& held, const Tensor& got) {
  require(held.device() == got.device() || (held.device() != meta && got.device() != meta),
          "load_state_dict: ", key, " is on ", held.device(), " and its values on ", got.device(),
          ", but meta keeps none");
}

/// t in memory that `given`, from which it was made, has no part in.
Tensor own_copy(const Tensor& t, const Tensor& given) {
  return t.impl().storage == given.impl().storage ? raw::clone(t) : raw::contiguous(t);
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
  Misfits misfits;
  // Values are held by aliases: those given may be the module's own, which filling gives new
  // memory.
  for_each_parameter([&](const std::string& key, Parameter& p) {
    const auto found = tensors.find(key);
    if (found == tensors.end()) return missing.emplace_back(key, &p.handle().impl()), void();
    used.insert(key);
    if (!misfits.fits(key, p.shape(), found->second))
      return given.try_emplace(&p.handle().impl(), key, Tensor()), void();
    const bool skipped = p.is_elsewhere();
    if (p.filled() && !skipped) check_place(key, p.handle(), found->second);
    const auto [first, fresh] = given.try_emplace(&p.handle().impl(), key, found->second);
    if (fresh && !skipped) fill.emplace_back(&p, raw::alias(found->second));
    if (fresh || skipped) return;
    const auto& [first_key, values] = first->second;
    require(!values.defined() ||
                same_values(values, found->second, (p.filled() ? p.handle() : values).dtype()),
            "load_state_dict: ", first_key, " and ", key,
            " are one tensor in the model, but their values differ; untie them, or give one of "
            "them");
  });
  for_each_buffer([&](const std::string& key, Buffer& b) {
    if (!b.persistent()) return;
    const auto found = tensors.find(key);
    if (found == tensors.end()) return missing.emplace_back(key, nullptr), void();
    const Tensor &held = b.tensor(), &got = found->second;
    used.insert(key);
    if (!misfits.fits(key, options_of(held), held.shape(), got)) return;
    check_place(key, held, got);
    buffers.emplace_back(&b, found->second);
  });
  if (options.strict) {
    for (const auto& [key, impl] : missing)
      if (!impl || !given.count(impl)) misfits.add("key ", key, " is missing");
    for (const auto& [key, tensor] : tensors)
      if (!used.count(key)) misfits.add("key ", key, " belongs to no parameter");
  }
  misfits.throw_if_any();
  if (options.check_only) return;
  for (const auto& [p, tensor] : fill) {
    const Tensor& like = p->filled() ? p->handle() : tensor;
    const Tensor values = raw::to(raw::cast(tensor, like.dtype()), like.device());
    p->assign(options.alias ? raw::contiguous(values) : own_copy(values, tensor));
  }
  for (const auto& [b, tensor] : buffers)
    b->assign(own_copy(raw::to(tensor, b->tensor().device()), tensor));
}

}  // namespace olm::nn
