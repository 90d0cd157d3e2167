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

std::map<std::string, Tensor> Optimizer::state_dict() const {
  std::map<std::string, Tensor> state;
  state["step"] = from_host<int64_t>({steps_}, {1});
  std::vector<int64_t> missed;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    missed.push_back(entry.missed);
    if (entry.first.defined()) state[key_of(kind_.first, i)] = entry.first;
    if (entry.second.defined()) state[key_of(kind_.second, i)] = entry.second;
  }
  state["missed"] = from_host(missed, {int64_t(missed.size())});
  return state;
}

/// A copy of one moment; undefined where none is wanted and none is there.
Tensor Optimizer::read_moment(const std::map<std::string, Tensor>& state, const char* moment,
                              size_t i, bool wanted) const {
  if (!moment) return {};
  const std::string key = key_of(moment, i);
  const auto found = state.find(key);
  require(found != state.end() || !wanted, kind_.name, " state: \"", key, "\" is missing");
  if (found == state.end()) return {};
  const Tensor& p = entries_[i].parameter;
  const Tensor& t = found->second;
  require(t.shape() == p.shape() && t.dtype() == p.dtype(), kind_.name, " state: \"", key, "\" is ",
          t.dtype(), " ", t.shape(), ", its parameter ", p.dtype(), " ", p.shape());
  return raw::clone(raw::to(t, p.device()));
}

void Optimizer::check_names(const std::map<std::string, Tensor>& state) const {
  std::set<std::string> known = {"step", "missed"};
  for (size_t i = 0; i < entries_.size(); ++i)
    for (const char* moment : {kind_.first, kind_.second})
      if (moment) known.insert(key_of(moment, i));
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
  for (size_t i = 0; i < entries.size(); ++i) {
    require(missed[i] >= 0 && missed[i] <= steps, kind_.name, " state: parameter ", i, " missed ",
            missed[i], " of ", steps, " steps");
    const bool wanted = missed[i] < steps;
    entries[i].missed = missed[i];
    entries[i].first = read_moment(state, kind_.first, i, wanted);
    entries[i].second = read_moment(state, kind_.second, i, wanted);
  }
  entries_ = std::move(entries);
  steps_ = steps;
}

}  // namespace olm::nn
