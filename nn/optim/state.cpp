// The state of optimizers by name, for checkpoints.
#include <set>

#include <olm/engine/raw.h>
#include <olm/nn/optim.h>

namespace olm::nn {
namespace {

std::string key_of(const char* moment, size_t i) {
  return std::string(moment) + "." + std::to_string(i);
}

}  // namespace

Tensor Optimizer::missed_steps() const {
  std::vector<int64_t> missed;
  for (const Entry& entry : entries_) missed.push_back(entry.missed);
  return from_host(missed, {int64_t(missed.size())});
}

std::map<std::string, Tensor> Optimizer::state_dict() const {
  require_whole("state_dict()");
  std::map<std::string, Tensor> state = {{"step", from_host<int64_t>({steps_}, {1})},
                                         {"missed", missed_steps()}};
  for (size_t i = 0; i < entries_.size(); ++i)
    for (size_t k = 0; k < kKept; ++k)
      if (kept_[i][k].defined()) state[key_of(name_of_kept(k, entries_[i]), i)] = kept_[i][k];
  return state;
}

std::vector<TensorLayout> Optimizer::state_layout() const {
  std::map<std::string, TensorLayout> layout;  // in the order of state_dict()
  const auto add = [&](const std::string& name, DType dtype, const Shape& shape) {
    layout[name] = {.name = name, .dtype = dtype, .shape = shape};
  };
  add("step", i64, {1});
  add("missed", i64, {int64_t(entries_.size())});
  for (size_t i = 0; i < entries_.size(); ++i)
    for (size_t k = 0; k < kKept; ++k)
      if (const char* name = name_of_kept(k, entries_[i]); name && entries_[i].started)
        add(key_of(name, i), acc_dtype(entries_[i].parameter.dtype()),
            entries_[i].parameter.shape());
  std::vector<TensorLayout> result;
  for (auto& [name, entry] : layout) result.push_back(std::move(entry));
  return result;
}

std::vector<TensorPiece> Optimizer::state_pieces() const {
  std::vector<TensorPiece> pieces = {{.name = "step", .data = from_host<int64_t>({steps_}, {1})},
                                     {.name = "missed", .data = missed_steps()}};
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const size_t parameter = size_t(ranges_[i].parameter);
    for (size_t k = 0; k < kKept; ++k)
      if (kept_[i][k].defined())
        pieces.push_back({.name = key_of(name_of_kept(k, entries_[parameter]), parameter),
                          .begin = ranges_[i].begin,
                          .data = raw::view(kept_[i][k], {kept_[i][k].numel()})});
  }
  return pieces;
}

/// What is kept of parameter i, whole; null where none is wanted and none is there.
const Tensor* Optimizer::find_kept(const std::map<std::string, Tensor>& state, size_t k, size_t i,
                                   bool wanted) const {
  const char* name = name_of_kept(k, entries_[i]);
  if (!name) return nullptr;
  const std::string key = key_of(name, i);
  const auto found = state.find(key);
  require(found != state.end() || !wanted, kind_.name, " state: \"", key, "\" is missing");
  if (found == state.end()) return nullptr;
  const Tensor& p = entries_[i].parameter;
  const Tensor& t = found->second;
  require(t.shape() == p.shape() && t.dtype() == acc_dtype(p.dtype()), kind_.name, " state: \"",
          key, "\" is ", t.dtype(), " ", t.shape(), ", its parameter ", p.dtype(), " ", p.shape());
  return &t;
}

void Optimizer::check_names(const std::map<std::string, Tensor>& state) const {
  std::set<std::string> known = {"step", "missed"};
  for (size_t i = 0; i < entries_.size(); ++i)
    for (size_t k = 0; k < kKept; ++k)
      if (const char* name = name_of_kept(k, entries_[i])) known.insert(key_of(name, i));
  for (const auto& [key, tensor] : state)
    require(known.count(key) != 0, kind_.name, " state: \"", key, "\" belongs to none of the ",
            entries_.size(), " parameters");
  for (const char* key : {"step", "missed"}) {
    const int64_t n = std::string(key) == "step" ? 1 : int64_t(entries_.size());
    const auto found = state.find(key);
    require(found != state.end(), kind_.name, " state: \"", key, "\" is missing");
    require(found->second.dtype() == i64 && found->second.shape() == Shape{n}, kind_.name,
            " state: \"", key, "\" is ", found->second.dtype(), " ", found->second.shape(),
            ", wanted i64 [", n, "]");
  }
}

void Optimizer::load_state_dict(const std::map<std::string, Tensor>& state) {
  check_names(state);
  const int64_t steps = state.at("step").item<int64_t>();
  const std::vector<int64_t> missed = to_host<int64_t>(state.at("missed"));
  std::vector<Entry> entries = entries_;
  std::vector<std::array<const Tensor*, kKept>> whole(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    require(missed[i] >= 0 && missed[i] <= steps, kind_.name, " state: parameter ", i, " missed ",
            missed[i], " of ", steps, " steps");
    entries[i].missed = missed[i];
    entries[i].started = missed[i] < steps;
    for (size_t k = 0; k < kKept; ++k) {
      whole[i][k] = find_kept(state, k, i, missed[i] < steps);
      entries[i].started = entries[i].started || whole[i][k];
    }
  }
  std::vector<Kept> kept(ranges_.size());
  for (size_t r = 0; r < ranges_.size(); ++r) {
    const size_t i = size_t(ranges_[r].parameter);
    for (size_t k = 0; k < kKept; ++k)
      if (const Tensor* t = whole[i][k])
        kept[r][k] = raw::clone(
            raw::to(part_of(raw::contiguous(*t), ranges_[r]), entries[i].parameter.device()));
    if (entries[i].started) prepare(kept[r], ranges_[r]);
  }
  entries_ = std::move(entries);
  kept_ = std::move(kept);
  steps_ = steps;
}

}  // namespace olm::nn
