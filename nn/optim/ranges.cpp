// Optimizers of which each keeps moments for some of the elements alone.
#include <algorithm>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/raw_muon.h>
#include <olm/nn/optim.h>

namespace olm::nn {

const char* Optimizer::name_of_kept(size_t k, const Entry& entry) const {
  if (k == kMaster) return entry.parameter.dtype() == bf16 ? "master" : nullptr;
  if (entry.orthogonalize) return k == 0 ? kind_.of_matrices : nullptr;
  return k == 0 ? kind_.first : kind_.second;
}

ParameterUpdate Optimizer::update_of(int64_t parameter) const {
  const Entry& entry = entries_.at(size_t(parameter));
  ParameterUpdate update{.divisible = !entry.orthogonalize};
  for (size_t k = 0; k < kMaster; ++k) update.moments += name_of_kept(k, entry) ? 1 : 0;
  const Shape& shape = entry.parameter.shape();
  if (entry.orthogonalize)
    update.flops = raw::orthogonalize_flops(shape[0], shape[1], kind_.iterations);
  return update;
}

bool Optimizer::is_whole(const ParameterRange& range) const {
  return range.begin == 0 && range.end == entries_[size_t(range.parameter)].parameter.numel();
}

void Optimizer::require_whole(const char* what) const {
  bool whole = ranges_.size() == entries_.size();
  for (size_t i = 0; whole && i < ranges_.size(); ++i)
    whole = ranges_[i].parameter == int64_t(i) && is_whole(ranges_[i]);
  require(whole, kind_.name, ": ", what,
          " wants all elements of all parameters, of which this optimizer has some (see "
          "set_ranges)");
}

/// Elements of a parameter, or of what has its shape: itself where they are all.
Tensor Optimizer::part_of(const Tensor& whole, const ParameterRange& range) const {
  if (is_whole(range)) return whole;
  return raw::slice(raw::view(whole, {whole.numel()}), 0, range.begin, range.end);
}

/// Moments begin as zeros, master weights as the parameter; they follow it to its device.
void Optimizer::prepare(Kept& kept, const ParameterRange& range) const {
  const Entry& entry = entries_[size_t(range.parameter)];
  const Tensor part = part_of(entry.parameter, range);
  for (size_t k = 0; k < kKept; ++k) {
    if (!name_of_kept(k, entry)) continue;
    if (kept[k].defined())
      kept[k] = raw::to(kept[k], part.device());
    else if (k == kMaster)
      kept[k] = raw::cast(part, f32);
    else
      kept[k] = zeros(part.shape(), acc_options(part));
  }
}

void Optimizer::check_ranges(const std::vector<ParameterRange>& ranges) const {
  std::vector<ParameterRange> sorted = ranges;
  std::sort(sorted.begin(), sorted.end(), [](const ParameterRange& a, const ParameterRange& b) {
    return std::pair(a.parameter, a.begin) < std::pair(b.parameter, b.begin);
  });
  const ParameterRange* before = nullptr;
  for (const ParameterRange& r : sorted) {
    require(r.parameter >= 0 && r.parameter < int64_t(entries_.size()), kind_.name,
            ": a range of parameter ", r.parameter, ", there are ", entries_.size());
    const Tensor& p = entries_[size_t(r.parameter)].parameter;
    require(0 <= r.begin && r.begin <= r.end && r.end <= p.numel() &&
                r.begin % kernels::kNormBlock == 0 &&
                (r.end % kernels::kNormBlock == 0 || r.end == p.numel()),
            kind_.name, ": elements ", r.begin, " to ", r.end, " of parameter ", r.parameter, " ",
            p.shape(), " are no range of blocks of ", kernels::kNormBlock);
    require(!before || before->parameter != r.parameter || before->end <= r.begin, kind_.name,
            ": element ", r.begin, " of parameter ", r.parameter, " is in two ranges");
    require(is_whole(r) || update_of(r.parameter).divisible, kind_.name, ": parameter ",
            r.parameter, " ", p.shape(), " is updated as a whole and cannot be cut");
    require(p.is_contiguous() || is_whole(r), kind_.name, ": parameter ", r.parameter, " ",
            p.shape(), " is not contiguous and cannot be cut");
    before = &r;
  }
}

/// What is kept of a range, put together from those of `same` parameter so far; undefined where
/// nothing is.
Tensor Optimizer::cut_kept(size_t k, const ParameterRange& range,
                           const std::vector<size_t>& same) const {
  const Tensor& p = entries_[size_t(range.parameter)].parameter;
  Tensor cut;
  int64_t found = 0;
  for (const size_t i : same) {
    const ParameterRange& r = ranges_[i];
    if (!kept_[i][k].defined()) continue;
    if (r == range) return kept_[i][k];
    const int64_t begin = std::max(r.begin, range.begin), end = std::min(r.end, range.end);
    if (begin >= end) continue;
    if (!cut.defined()) cut = empty({range.end - range.begin}, options_of(kept_[i][k]));
    const Tensor flat = raw::view(kept_[i][k], {r.end - r.begin});
    raw::copy_(raw::slice(cut, 0, begin - range.begin, end - range.begin),
               raw::slice(flat, 0, begin - r.begin, end - r.begin));
    found += end - begin;
  }
  const bool wanted = entries_[size_t(range.parameter)].started &&
                      name_of_kept(k, entries_[size_t(range.parameter)]);
  require(!wanted || found == range.end - range.begin, kind_.name, ": elements ", range.begin,
          " to ", range.end, " of parameter ", range.parameter, " have moments elsewhere");
  return cut.defined() && is_whole(range) ? raw::view(cut, p.shape()) : cut;
}

void Optimizer::set_ranges(std::vector<ParameterRange> ranges) {
  check_ranges(ranges);
  std::vector<std::vector<size_t>> so_far(entries_.size());  // of each parameter
  for (size_t i = 0; i < ranges_.size(); ++i) so_far[size_t(ranges_[i].parameter)].push_back(i);
  std::vector<Kept> kept(ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i)
    for (size_t k = 0; k < kKept; ++k)
      kept[i][k] = cut_kept(k, ranges[i], so_far[size_t(ranges[i].parameter)]);
  kept_ = std::move(kept);
  ranges_ = std::move(ranges);
}

size_t Optimizer::state_bytes() const {
  size_t bytes = 0;
  for (const ParameterRange& r : ranges_) {
    const Entry& entry = entries_[size_t(r.parameter)];
    if (!entry.started && !requires_grad(entry.parameter)) continue;
    for (size_t k = 0; k < kKept; ++k)
      if (name_of_kept(k, entry))
        bytes += size_t(r.end - r.begin) * size_of(acc_dtype(entry.parameter.dtype()));
  }
  return bytes;
}

}  // namespace olm::nn
