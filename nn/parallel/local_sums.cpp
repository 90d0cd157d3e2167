#include <olm/nn/parallel/local_sums_internal.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <olm/autograd/graph_internal.h>
#include <olm/engine/raw.h>

namespace olm::nn::parallel {

bool is_shared(const Tensor& x) {
  return x.handle().use_count() > 1 || x.impl().storage.use_count() > 1;
}

void add_into(Tensor& total, const Tensor& x) {
  if (!x.defined()) return;
  if (!total.defined()) {
    total = x;
    return;
  }
  const DType dtype = acc_dtype(x.dtype());
  total = raw::cast(total, dtype);
  if (is_shared(total) || !total.is_contiguous()) total = raw::clone(total);
  raw::add_(total, raw::cast(x, dtype));
}

void TreeSum::add(Tensor x, int64_t i, int64_t n) {
  open_.push_back(std::move(x));
  for (int64_t left = SumTree::additions_after(i, n); left > 0; --left) {
    const Tensor last = std::move(open_.back());
    open_.pop_back();
    add_into(open_.back(), last);
  }
}

Tensor TreeSum::take() {
  require(open_.size() == 1, "sum: ", open_.size(), " sums are open, wanted the one of all");
  Tensor sum = std::move(open_.back());
  open_.clear();
  return sum;
}

LocalSums::LocalSums(const Tensors& parameters, const std::vector<bool>& trained,
                     const ExpertParallel* experts, bool ordered)
    : watched_(parameters.size()), present_(parameters.size()), ordered_(ordered) {
  std::unordered_map<const TensorImpl*, Tensors> leaves;  // of experts
  if (experts)
    for (const ExpertParallel::Source& s : experts->sources())
      leaves[&s.parameter.impl()].push_back(s.leaf);
  for (size_t p = 0; p < parameters.size(); ++p) {
    Watched& w = watched_[p];
    w.trained = trained[p];
    if (const auto found = leaves.find(&parameters[p].impl()); found != leaves.end())
      for (const Tensor& leaf : found->second) w.sources.push_back({.leaf = leaf});
    if (w.sources.empty() && parameters[p].device() != meta)
      w.sources.push_back({.leaf = parameters[p]});
    for (size_t s = 0; s < w.sources.size(); ++s) watch(p, s);
  }
}

LocalSums::~LocalSums() { gate_->open = nullptr; }

void LocalSums::watch(size_t parameter, size_t source) {
  graph::on_delivered(watched_[parameter].sources[source].leaf,
                      [=, gate = gate_](const Tensor& gradient) {
                        if (gate->open) gate->open->arrived(parameter, source, gradient);
                      });
}

void LocalSums::arrived(size_t parameter, size_t source, const Tensor& gradient) {
  Watched& w = watched_[parameter];
  Source& s = w.sources[source];
  require(w.trained || !gradient.defined(), "DataParallel: parameter ", parameter, " ",
          s.leaf.shape(), " was frozen when this was made, and has a gradient now");
  if (!w.trained) return;
  require(!s.came, "DataParallel: parameter ", parameter, " ", s.leaf.shape(),
          " had two gradients in one backward pass");
  s.came = true;
  present_[parameter] = present_[parameter] || gradient.defined();
  take(parameter, s, gradient);
}

/// The gradient of micro-batch i_, or none: where they are added in the leaf, of all so far.
void LocalSums::take(size_t parameter, Source& s, const Tensor& gradient) {
  const bool last = i_ + 1 == n_;
  if (ordered_ || last) zero_grad(s.leaf);
  if (ordered_) s.sum.add(gradient, i_, n_);
  if (!last) return;
  s.total = ordered_ ? s.sum.take() : gradient;
  if (--watched_[parameter].missing == 0) complete(parameter);
}

/// Adds what ranks' rows gave an expert: each had as many micro-batches as the others, so that
/// theirs are the nodes of a cut.
void LocalSums::complete(size_t parameter) {
  std::vector<Source>& sources = watched_[parameter].sources;
  const auto n = int64_t(sources.size());
  for (const SumTree::Addition& a : SumTree(n * n_).additions(n))
    add_into(sources[size_t(a.into)].total, std::exchange(sources[size_t(a.from)].total, Tensor()));
  done_(parameter, std::exchange(sources[0].total, Tensor()));
}

void LocalSums::run(int64_t i, int64_t n, const std::function<void()>& backward, Done done) {
  i_ = i;
  n_ = n;
  done_ = std::move(done);
  for (Watched& w : watched_) {
    w.missing = w.sources.size();
    for (Source& s : w.sources) s.came = false;
  }
  struct Opened {
    explicit Opened(Gate& g, LocalSums* sums) : gate(g) { gate.open = sums; }
    ~Opened() { gate.open = nullptr; }
    Gate& gate;
  };
  {
    const Opened opened(*gate_, this);
    backward();
  }
  NoGrad guard;
  for (size_t p = 0; p < watched_.size(); ++p) {
    if (!watched_[p].trained) continue;
    for (Source& s : watched_[p].sources)
      if (!s.came) take(p, s, ordered_ ? Tensor() : grad(s.leaf));
  }
}

void LocalSums::clear() {
  present_.assign(present_.size(), false);
  for (Watched& w : watched_)
    for (Source& s : w.sources) {
      s.sum.clear();
      s.total = {};
      zero_grad(s.leaf);
    }
}

int64_t LocalSums::most_held(size_t parameter, int64_t n, bool leaves) const {
  const Watched& w = watched_[parameter];
  if (!w.trained) return 0;
  int64_t held = 0, most = 0;
  for (int64_t i = 0; i + leaves < n; ++i) {
    held += 1 - SumTree::additions_after(i, n);
    most = std::max(most, ordered_ ? held : 1);
  }
  return int64_t(w.sources.size()) * most;
}

}  // namespace olm::nn::parallel
