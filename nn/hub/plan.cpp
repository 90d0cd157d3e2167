// Tensors of one form made from those of another.
#include <algorithm>
#include <set>

#include <olm/engine/raw.h>
#include <olm/nn/hub/parts_internal.h>
#include <olm/nn/hub/stored_internal.h>

namespace olm::nn::hub {

namespace {

/// Where a part lies in a tensor.
struct Place {
  size_t tensor = 0;  ///< of Source::tensors
  int64_t row = 0;    ///< the first
};

/// The parts of a stored model, found and checked.
class Source {
 public:
  explicit Source(const StoredModel& from);
  const StoredTensor& entry(const std::string& name) const { return *entries_.at(name); }
  bool has(const Part& part) const { return places_.count(part) != 0; }
  const PartTensor& tensor_with(const Part& part) const {
    return tensors_[places_.at(part).tensor];
  }
  /// A window onto the tensor: [out, in] or [out].
  Tensor view(const Part& part) const;

  const DecoderConfig config;
  const Names names;
  const std::shared_ptr<const TensorSource> files;
  const std::map<Part, Shape> parts;

 private:
  void check(const StoredModel& from);
  bool is_tied_head(const std::string& name) const;
  void place(size_t at);
  std::map<std::string, const StoredTensor*> entries_;
  std::vector<PartTensor> tensors_;
  std::map<Part, Place> places_;
};

Source::Source(const StoredModel& from)
    : config(*from.config),
      names(from.names),
      files(from.tensors),
      parts(parts_of(config)),
      tensors_(tensors_of(names, config, parts)) {
  for (const StoredTensor& entry : files->entries()) entries_.emplace(entry.name, &entry);
  check(from);
  for (size_t i = 0; i < tensors_.size(); ++i) place(i);
}

/// A tied head may be stored all the same.
bool Source::is_tied_head(const std::string& name) const {
  return config.tie_weights &&
         std::any_of(names.modules.begin(), names.modules.end(), [&](const ModuleName& m) {
           return m.parts == "head" && m.name + m.weight == name;
         });
}

void Source::check(const StoredModel& from) {
  std::set<std::string> wanted;
  std::string missing, surplus, others;
  const auto add = [](std::string& list, const auto&... parts) {
    list += (list.empty() ? "" : ", ") + detail::concat(parts...);
  };
  for (const PartTensor& tensor : tensors_) {
    wanted.insert(tensor.name);
    const auto at = entries_.find(tensor.name);
    if (at == entries_.end())
      add(missing, tensor.name,
          tensor.parts.front().name == "head" ? " (the head is not tied to the embedding)" : "");
    else if (at->second->shape != tensor.shape)
      add(others, tensor.name, " ", at->second->shape, " instead of ", tensor.shape);
    else if (!is_float(at->second->dtype))
      add(others, tensor.name, " of type ", at->second->type, " instead of a float");
  }
  for (const auto& [name, entry] : entries_)
    if (!wanted.count(name) && !ends_with_any(name, names.ignored) && !is_tied_head(name))
      add(surplus, name);
  std::string text;
  const auto say = [&](const char* what, const std::string& list) {
    if (!list.empty()) text += (text.empty() ? "" : "; ") + std::string(what) + list;
  };
  say("missing are ", missing);
  say("surplus are ", surplus);
  say("other than the configuration wants are ", others);
  if (!text.empty()) throw FileError(from.path, ": tensors do not fit the configuration: ", text);
}

void Source::place(size_t at) {
  const PartTensor& tensor = tensors_[at];
  if (tensor.zeros) return;
  int64_t row = 0, expert = 0;
  for (const Part& part : tensor.parts) {
    if (tensor.layout == Layout::stacked && part.expert != expert) row = 0, expert = part.expert;
    places_[part] = {at, row};
    row += parts.at(part)[0];
  }
}

Tensor Source::view(const Part& part) const {
  const Place& at = places_.at(part);
  const PartTensor& tensor = tensors_[at.tensor];
  Tensor x = files->tensor(tensor.name);
  if (tensor.layout == Layout::stacked) x = raw::select(x, 0, part.expert);
  if (tensor.layout == Layout::transposed) x = raw::transpose(x, 0, 1);
  const int64_t rows = parts.at(part)[0];
  return rows == x.size(0) ? x : raw::slice(x, 0, at.row, at.row + rows);
}

/// What happens to parts on the way from one form to another.
class Change {
 public:
  Change(const DecoderConfig& c, const Names& from, const Names& to)
      : pairs_(*c.positions == "rope" && from.pairing != to.pairing),
        to_pairing_(to.pairing),
        head_dim_(head_dim_of(c)),
        rotated_(rotated_dims_of(c)),
        offset_(to.norm_offset - from.norm_offset) {}
  bool reorders(const Part& part) const {
    return pairs_ &&
           (part.name == "q" || part.name == "k" || part.name == "q_norm" || part.name == "k_norm");
  }
  bool shifts(const Part& part) const {
    return offset_ != 0 && !part.bias && part.name.ends_with("_norm");
  }
  bool any(const Part& part) const { return reorders(part) || shifts(part); }
  Tensor operator()(const Part& part, Tensor x) const {
    if (reorders(part)) x = reordered(x);
    if (shifts(part)) x = shifted(x);
    return x;
  }

 private:
  Tensor reordered(const Tensor& x) const;
  Tensor shifted(const Tensor& x) const;
  bool pairs_;
  RopePairing to_pairing_;
  int64_t head_dim_, rotated_;
  double offset_;
};

/// Rows of each head from halves to neighbours, or back: row (i, j) of a head as [2, rotated / 2]
/// is row (j, i) of it as [rotated / 2, 2].
Tensor Change::reordered(const Tensor& x) const {
  const int64_t heads = x.size(0) / head_dim_, width = x.rank() == 2 ? x.size(1) : 1;
  const Tensor from = raw::reshape(x, {heads, head_dim_, width});
  const Tensor to = empty(from.shape(), options_of(x));
  const int64_t half = rotated_ / 2;
  const auto rows = [&](const Tensor& t, bool halves) {
    const Shape& s = t.strides();
    const int64_t first = halves ? half * s[1] : s[1], second = halves ? s[1] : 2 * s[1];
    return raw::as_strided(t, {heads, 2, half, width}, {s[0], first, second, s[2]},
                           t.storage_offset());
  };
  const bool to_halves = to_pairing_ == RopePairing::halves;
  raw::copy_(rows(to, to_halves), rows(from, !to_halves));
  if (rotated_ < head_dim_)
    raw::copy_(raw::slice(to, 1, rotated_, head_dim_), raw::slice(from, 1, rotated_, head_dim_));
  return raw::view(to, x.shape());
}

Tensor Change::shifted(const Tensor& x) const {
  const Tensor y = raw::clone(raw::cast(x, acc_dtype(x.dtype())));
  raw::add_(y, full(y.shape(), offset_, options_of(y)));
  return y;
}

/// All that making a tensor needs; kept alive by the functions of a plan.
struct Work {
  Source source;
  Change change;

  DType dtype_of(const Part& part) const {
    const DType stored = source.entry(source.tensor_with(part).name).dtype;
    return change.shifts(part) ? acc_dtype(stored) : stored;
  }
  Tensor part(const Part& p) const { return change(p, source.view(p)); }
  Tensor make(const PartTensor& to, DType dtype) const;
  Tensor assemble(const PartTensor& to, DType dtype) const;
};

Tensor Work::make(const PartTensor& to, DType dtype) const {
  if (to.zeros) return zeros(to.shape, {.dtype = dtype});
  const PartTensor& only = source.tensor_with(to.parts.front());
  const auto unchanged = [&](const Part& p) { return !change.any(p); };
  if (only.layout == to.layout && only.parts == to.parts &&
      std::all_of(to.parts.begin(), to.parts.end(), unchanged))
    return source.files->tensor(only.name);
  if (to.parts.size() == 1 && to.layout == Layout::rows)
    return raw::contiguous(part(to.parts.front()));
  return assemble(to, dtype);
}

Tensor Work::assemble(const PartTensor& to, DType dtype) const {
  const Tensor whole = empty(to.shape, {.dtype = dtype});
  int64_t row = 0, expert = 0;
  for (const Part& p : to.parts) {
    Tensor at = whole;
    if (to.layout == Layout::stacked) {
      if (p.expert != expert) row = 0, expert = p.expert;
      at = raw::select(whole, 0, p.expert);
    }
    if (to.layout == Layout::transposed) at = raw::transpose(whole, 0, 1);
    const Tensor x = part(p);
    raw::copy_(raw::slice(at, 0, row, row + x.size(0)), raw::cast(x, dtype));
    row += x.size(0);
    source.files->release(source.tensor_with(p).name);
  }
  return whole;
}

/// The dtype of a tensor of several parts: theirs where they agree.
DType common_dtype(const Work& work, const PartTensor& to) {
  Part first = to.parts.front();
  if (to.zeros) first.bias = false;
  const DType dtype = work.dtype_of(first);
  for (Part part : to.parts) {
    if (to.zeros) part.bias = false;
    if (work.dtype_of(part) != dtype) return f32;
  }
  return dtype;
}

std::vector<std::string> sources_of(const Work& work, const PartTensor& to) {
  std::vector<std::string> sources;
  if (to.zeros) return sources;
  for (const Part& part : to.parts) {
    const std::string& name = work.source.tensor_with(part).name;
    if (std::find(sources.begin(), sources.end(), name) == sources.end()) sources.push_back(name);
  }
  return sources;
}

void require_all_placed(const StoredModel& from, const std::map<Part, Shape>& parts,
                        const std::vector<PartTensor>& tensors) {
  std::set<Part> placed;
  for (const PartTensor& tensor : tensors) placed.insert(tensor.parts.begin(), tensor.parts.end());
  std::string others;
  for (const auto& [part, shape] : parts)
    if (!placed.count(part)) others += (others.empty() ? "" : ", ") + ("the " + part.describe());
  if (!others.empty())
    throw FileError(from.path, ": the form to be written has no place for ", others);
}

}  // namespace

bool may_hold(const TensorSource& files, const DecoderConfig& config) {
  int64_t places = 0;
  for (const StoredTensor& t : files.entries())
    places += t.shape.rank() == 3 ? std::min(t.shape[0], t.shape.numel()) : 1;
  const int64_t each = std::max<int64_t>(1, config.num_experts.value_or(1));
  return config.num_layers <= places / each;
}

void check_tensors(const StoredModel& model) {
  require(model.config.has_value(), model.path, ": the model is no decoder");
  const int64_t experts = model.config->num_experts.value_or(0);
  if (!may_hold(*model.tensors, *model.config))
    throw FileError(model.path, ": ", model.tensors->entries().size(),
                    " tensors are too few for the configuration, which has ",
                    model.config->num_layers, " layers",
                    experts ? " of " + std::to_string(experts) + " experts" : "");
  Source{model};
}

std::vector<PlannedTensor> plan(const StoredModel& from, const Names& to) {
  require(from.config.has_value(), from.path, ": the model is no decoder");
  auto work =
      std::make_shared<const Work>(Work{Source(from), Change(*from.config, from.names, to)});
  const std::vector<PartTensor> tensors = tensors_of(to, *from.config, work->source.parts);
  require_all_placed(from, work->source.parts, tensors);
  std::vector<PlannedTensor> result;
  for (const PartTensor& tensor : tensors) {
    const DType dtype = common_dtype(*work, tensor);
    result.push_back({.name = tensor.name,
                      .shape = tensor.shape,
                      .dtype = dtype,
                      .sources = sources_of(*work, tensor),
                      .make = [work, tensor, dtype] { return work->make(tensor, dtype); }});
  }
  return result;
}

}  // namespace olm::nn::hub
