#include <olm/nn/parallel.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/parallel/agree_internal.h>
#include <olm/nn/parallel/local_sums_internal.h>
#include <olm/nn/parallel/step_exchange_internal.h>
#include <olm/nn/parallel/transfer_internal.h>
#include <olm/nn/version.h>

namespace olm::nn {

using namespace parallel;

namespace {

/// A rank's part of the micro-batches; throws where there is none.
SumTree::Node part_of_step(const DataParallelOptions& o, const dist::Comm& comm) {
  require(o.micro_batches >= comm.size(), "DataParallel: ", comm.size(), " ranks want at least as ",
          "many micro-batches in a step, got ", o.micro_batches,
          "; take more micro-batches, smaller ones, or fewer ranks");
  return SumTree(o.micro_batches).cut(comm.size())[size_t(comm.rank())];
}

void check_options(const DataParallelOptions& o) {
  require(o.zero == 0 || o.zero == 1, "DataParallel: zero wants 0 or 1, got ", o.zero);
  require(o.micro_batches >= 1, "DataParallel: wanted at least 1 micro-batch, got ",
          o.micro_batches);
  require(o.bucket_mb > 0 && std::isfinite(o.bucket_mb),
          "DataParallel: bucket_mb wants more than 0, got ", o.bucket_mb);
  require(o.wire == f32 || o.wire == bf16, "DataParallel: wire wants f32 or bf16, got ", o.wire);
}

/// Numbers of an optimizer's parameters from the last of `order` to the first, then of the others.
std::vector<int64_t> reverse_order(const Tensors& parameters, const Tensors& order) {
  std::vector<int64_t> numbers;
  std::vector<bool> taken(parameters.size());
  const auto take = [&](const Tensor& wanted) {
    for (size_t i = 0; i < parameters.size(); ++i)
      if (!taken[i] && parameters[i].is_same(wanted)) {
        taken[i] = true;
        numbers.push_back(int64_t(i));
      }
  };
  for (size_t i = order.size(); i > 0; --i) take(order[i - 1]);
  for (size_t i = parameters.size(); i > 0; --i) take(parameters[i - 1]);
  return numbers;
}

}  // namespace

class DataParallel::Impl {
 public:
  Impl(Optimizer& optimizer, DataParallelOptions options, dist::Comm comm,
       std::shared_ptr<ExpertParallel> experts);

  void backward(const Tensor& loss, int64_t targets, const Tensors& aux);
  StepInfo step(StepOptions options, const std::string& note);
  void clear();
  ParallelCost cost() const;

  Optimizer& optimizer;
  DataParallelOptions options;
  dist::Comm comm;
  SumTree::Node part;
  std::vector<ParameterRange> written;
  std::vector<std::string> notes;
  int64_t targets = 0;

 private:
  struct Loss {
    Tensor loss = {};
    Tensors aux = {};
    int64_t targets = 0;
  };
  bool alone() const { return comm.size() == 1; }
  bool is_expert(const Tensor& parameter) const;
  std::vector<Member> members() const;
  Facts facts() const;
  void share_ranges();
  StepNews local_news(const Tensors& owned_sums) const;
  void add_losses(const std::vector<StepNews>& news);
  Tensor all_sums(const std::vector<StepNews>& news) const;
  StepInfo step_alone(const StepOptions& how);
  StepInfo step_together(const StepOptions& how, const std::string& note);
  void update_owned(const Tensors& owned_sums, const std::vector<bool>& present);
  void update_all(const std::vector<bool>& present);

  std::shared_ptr<ExpertParallel> experts_;
  Tensors parameters_;
  std::vector<bool> trained_;
  std::unique_ptr<LocalSums> sums_;
  std::unique_ptr<Transfer> transfer_;              // among ranks
  std::vector<std::vector<ParameterRange>> owned_;  // by each rank
  Tensors alone_sums_;                              // by parameter, in a world of one
  std::vector<Loss> losses_;
  int64_t next_ = 0;  // micro-batches of this rank that are done
  bool broken_ = false;
  size_t in_backward_ = 0;  // buckets of the last step that were launched in its backward
  size_t news_bytes_ = 0;
};

DataParallel::Impl::Impl(Optimizer& opt, DataParallelOptions o, dist::Comm c,
                         std::shared_ptr<ExpertParallel> experts)
    : optimizer(opt),
      options(std::move(o)),
      comm(std::move(c)),
      experts_(std::move(experts)),
      parameters_(opt.parameters()) {
  for (const Tensor& p : parameters_) trained_.push_back(requires_grad(p));
  require_same_facts(comm, facts());
  check_options(options);
  part = part_of_step(options, comm);
  if (experts_) experts_->check_micro_batches(options.micro_batches, options.deterministic);
  sums_ = std::make_unique<LocalSums>(parameters_, trained_, experts_.get(), options.deterministic);
  if (alone()) {
    written = optimizer.ranges();
    alone_sums_.resize(parameters_.size());
    return;
  }
  const dist::Comm replicas = experts_ ? experts_->replicas() : dist::Comm();
  std::vector<Bucket> buckets =
      make_buckets(members(), options.bucket_mb * double(1 << 20), comm.size(), replicas.size());
  require_same_facts(comm, {{"buckets of gradients", describe(buckets)}});
  Tensors dense, spread;
  for (const Bucket& b : buckets)
    for (const Member& m : b.members)
      (b.expert ? spread : dense).push_back(parameters_[size_t(m.parameter)]);
  hand_out(comm, dense);
  hand_out(replicas, spread);
  transfer_ = std::make_unique<Transfer>(std::move(buckets), parameters_, comm, replicas, options);
  share_ranges();
}

bool DataParallel::Impl::is_expert(const Tensor& parameter) const {
  if (!experts_) return false;
  const auto& sources = experts_->sources();
  return std::any_of(sources.begin(), sources.end(), [&](const ExpertParallel::Source& s) {
    return s.parameter.is_same(parameter);
  });
}

/// Parameters in the order in which backward reaches them; those on meta are other ranks'.
std::vector<Member> DataParallel::Impl::members() const {
  std::vector<Member> result;
  for (const int64_t i : reverse_order(parameters_, options.order)) {
    const Tensor& p = parameters_[size_t(i)];
    if (p.device() != meta)
      result.push_back({.parameter = i,
                        .numel = p.numel(),
                        .dtype = p.dtype(),
                        .trained = trained_[size_t(i)],
                        .expert = is_expert(p)});
  }
  return result;
}

Facts DataParallel::Impl::facts() const {
  Facts facts = {
      {"the version of the library", olm::version()},
      {"the optimizer", optimizer.name()},
      {"steps of the optimizer", std::to_string(optimizer.steps())},
      {"micro-batches of a step", std::to_string(options.micro_batches)},
      {"zero", std::to_string(options.zero)},
      {"bucket_mb", detail::concat(options.bucket_mb)},
      {"deterministic", options.deterministic ? "true" : "false"},
      {"wire", detail::concat(options.wire)},
      {"ranks that share experts", std::to_string(experts_ ? experts_->group().size() : 1)},
      {"the number of parameters", std::to_string(parameters_.size())}};
  for (size_t i = 0; i < parameters_.size(); ++i)
    facts.emplace_back(detail::concat("parameter ", i),
                       detail::concat(trained_[i] ? "" : "frozen ", parameters_[i].dtype(), " ",
                                      parameters_[i].shape()));
  return facts;
}

/// Which elements each rank owns, and which of them the optimizer of this one updates.
void DataParallel::Impl::share_ranges() {
  written = transfer_->owned();
  std::string bytes(reinterpret_cast<const char*>(written.data()),
                    written.size() * sizeof(ParameterRange));
  for (const std::string& other : comm.all_gather(bytes)) {
    const auto* first = reinterpret_cast<const ParameterRange*>(other.data());
    owned_.emplace_back(first, first + other.size() / sizeof(ParameterRange));
  }
  if (options.zero == 1) {
    optimizer.set_ranges(written);
    return;
  }
  std::vector<ParameterRange> whole;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].device() != meta) whole.push_back({int64_t(i), 0, parameters_[i].numel()});
  optimizer.set_ranges(whole);
}

void DataParallel::Impl::backward(const Tensor& loss, int64_t n, const Tensors& aux) {
  require(!broken_, "DataParallel: a backward pass of this step has thrown; zero_grad() first");
  require(next_ < part.size(), "DataParallel: all ", part.size(),
          " micro-batches of this rank are there; step() comes next");
  require(loss.numel() == 1, "DataParallel: wanted the loss as a scalar, got ", loss.shape());
  require(n >= 0, "DataParallel: wanted at least 0 targets, got ", n);
  Loss record{.loss = raw::alias(loss), .targets = n};
  for (const Tensor& x : aux) record.aux.push_back(raw::alias(x));
  if (alone()) optimizer.add_loss(record.loss, record.aux, n);
  losses_.push_back(std::move(record));
  broken_ = true;
  BackwardOptions how;
  if (options.micro_batches > 1) how.gradient = full(loss.shape(), double(n), options_of(loss));
  const auto pass = [&] {
    olm::backward(loss, how);
    if (transfer_) in_backward_ = transfer_->launched();
  };
  sums_->run(next_, part.size(), pass, [this](size_t p, Tensor sum) {
    if (transfer_)
      transfer_->take(int64_t(p), std::move(sum));
    else
      alone_sums_[p] = std::move(sum);
  });
  broken_ = false;
  ++next_;
}

void DataParallel::Impl::clear() {
  sums_->clear();
  if (transfer_) transfer_->clear();
  std::fill(alone_sums_.begin(), alone_sums_.end(), Tensor());
  losses_.clear();
  next_ = 0;
  broken_ = false;
  optimizer.zero_grad();
}

StepInfo DataParallel::Impl::step(StepOptions how, const std::string& note) {
  require(!broken_, "DataParallel: a backward pass of this step has thrown; zero_grad() first");
  require(next_ == part.size(), "DataParallel: step() after ", next_, " of the ", part.size(),
          " micro-batches of this rank");
  const StepInfo info = alone() ? step_alone(how) : step_together(how, note);
  if (alone()) notes = {note};
  clear();
  return info;
}

namespace {

/// Losses are means over targets, weighted by their number where there are several.
StepOptions scaled(StepOptions how, int64_t micro_batches, int64_t targets) {
  how.gradient_scale = micro_batches > 1 ? 1 / double(std::max<int64_t>(1, targets)) : 1;
  return how;
}

}  // namespace

StepInfo DataParallel::Impl::step_alone(const StepOptions& how) {
  targets = 0;
  for (const Loss& loss : losses_) targets += loss.targets;
  std::vector<bool> present;
  for (const Tensor& sum : alone_sums_) present.push_back(sum.defined());
  if (std::find(present.begin(), present.end(), true) == present.end()) return optimizer.step(how);
  const Tensor sums = optimizer.squared_sums(alone_sums_);
  optimizer.begin_step(sums, scaled(how, options.micro_batches, targets));
  optimizer.update_ranges(alone_sums_, 0);
  return optimizer.end_step(sums, present);
}

/// What this rank tells the others, but for who had gradients.
StepNews DataParallel::Impl::local_news(const Tensors& owned_sums) const {
  StepNews news;
  for (const Loss& loss : losses_) {
    MicroBatchLoss l{.loss = loss.loss.item<double>(), .targets = loss.targets};
    for (const Tensor& x : loss.aux) l.aux.push_back(x.item<double>());
    news.losses.push_back(std::move(l));
  }
  Tensors there;
  for (const Tensor& sum : owned_sums)
    if (sum.defined()) there.push_back(raw::cast(sum, acc_dtype(sum.dtype())));
  const std::vector<double> sums =
      there.empty() ? std::vector<double>() : to_host<double>(raw::squared_sums(there));
  size_t from = 0;
  for (size_t i = 0; i < owned_sums.size(); ++i) {
    const int64_t n = raw::norm_blocks(written[i].end - written[i].begin);
    for (int64_t b = 0; b < n; ++b) news.sums.push_back(owned_sums[i].defined() ? sums[from++] : 0);
  }
  return news;
}

/// In the order of micro-batches, so that their sum has the same bits everywhere.
void DataParallel::Impl::add_losses(const std::vector<StepNews>& news) {
  const Device device = losses_[0].loss.device();
  const auto scalar = [&](double v) { return full({}, v, {.dtype = f64, .device = device}); };
  targets = 0;
  for (const StepNews& rank : news)
    for (const MicroBatchLoss& l : rank.losses) {
      Tensors aux;
      for (const double x : l.aux) aux.push_back(scalar(x));
      optimizer.add_loss(scalar(l.loss), aux, l.targets);
      targets += l.targets;
    }
}

/// The sums of all blocks of all parameters, in their order.
Tensor DataParallel::Impl::all_sums(const std::vector<StepNews>& news) const {
  std::vector<int64_t> first = {0};
  for (const Tensor& p : parameters_) first.push_back(first.back() + raw::norm_blocks(p.numel()));
  std::vector<double> sums(size_t(first.back()));
  for (size_t r = 0; r < news.size(); ++r) {
    size_t from = 0;
    for (const ParameterRange& range : owned_[r]) {
      const int64_t at = first[size_t(range.parameter)] + range.begin / kernels::kNormBlock;
      for (int64_t b = 0; b < raw::norm_blocks(range.end - range.begin); ++b)
        sums[size_t(at + b)] = news[r].sums.at(from++);
    }
  }
  return from_host(sums, {first.back()});
}

StepInfo DataParallel::Impl::step_together(const StepOptions& how, const std::string& note) {
  Tensors owned_sums;
  for (size_t b = 0; b < transfer_->buckets().size(); ++b)
    for (Tensor& sum : transfer_->owned_sums(b)) owned_sums.push_back(std::move(sum));
  StepNews mine = local_news(owned_sums);
  mine.present = sums_->present();
  mine.note = note;
  const std::string bytes = pack(mine);
  news_bytes_ = bytes.size() - note.size();
  std::vector<StepNews> news;
  for (const std::string& other : comm.all_gather(bytes)) news.push_back(unpack(other));
  notes.clear();
  std::vector<bool> present(parameters_.size());
  for (StepNews& rank : news) {
    for (size_t i = 0; i < present.size(); ++i) present[i] = present[i] || rank.present.at(i);
    notes.push_back(std::move(rank.note));
  }
  add_losses(news);
  if (std::find(present.begin(), present.end(), true) == present.end()) return optimizer.step(how);
  const Tensor sums = all_sums(news);
  optimizer.begin_step(sums, scaled(how, options.micro_batches, targets));
  if (options.zero == 1)
    update_owned(owned_sums, present);
  else
    update_all(present);
  return optimizer.end_step(sums, present);
}

/// Bucket by bucket, while the weights of those before go to the other ranks.
void DataParallel::Impl::update_owned(const Tensors& owned_sums, const std::vector<bool>& present) {
  const size_t buckets = transfer_->buckets().size();
  for (size_t b = 0; b < buckets; ++b) {
    const size_t first = transfer_->first_owned(b), end = transfer_->first_owned(b + 1);
    Tensors gradients(end - first);
    for (size_t i = first; i < end; ++i)
      if (present[size_t(written[i].parameter)]) gradients[i - first] = owned_sums[i];
    optimizer.update_ranges(gradients, first);
    const auto& members = transfer_->buckets()[b].members;
    if (std::any_of(members.begin(), members.end(),
                    [&](const Member& m) { return present[size_t(m.parameter)]; }))
      transfer_->hand_out(b);
  }
  for (size_t b = 0; b < buckets; ++b) transfer_->finish_hand_out(b);
}

void DataParallel::Impl::update_all(const std::vector<bool>& present) {
  Tensors by_parameter(parameters_.size());
  for (size_t b = 0; b < transfer_->buckets().size(); ++b) {
    const Bucket& bucket = transfer_->buckets()[b];
    const Tensors whole = transfer_->whole_sums(b);
    for (size_t m = 0; m < bucket.members.size(); ++m)
      by_parameter[size_t(bucket.members[m].parameter)] = whole[m];
  }
  Tensors gradients;
  for (const ParameterRange& r : optimizer.ranges())
    gradients.push_back(present[size_t(r.parameter)] ? by_parameter[size_t(r.parameter)]
                                                     : Tensor());
  optimizer.update_ranges(gradients, 0);
}

ParallelCost DataParallel::Impl::cost() const {
  ParallelCost cost{.moment_bytes = optimizer.state_bytes()};
  for (size_t p = 0; p < parameters_.size(); ++p)
    cost.gradient_bytes += size_t(sums_->most_held(p, part.size()) * parameters_[p].numel()) *
                           size_of(acc_dtype(parameters_[p].dtype()));
  if (alone()) return cost;
  size_t largest = 0;
  for (const Bucket& b : transfer_->buckets()) {
    if (!transfer_->travels(b)) continue;
    const dist::Comm& c = transfer_->comm_of(b);
    const DType dtype = acc_dtype(b.dtype), wire = dtype == f32 ? options.wire : dtype;
    const int64_t others = c.size() - 1;
    const dist::Counts even = dist::even_counts(b.elements, c.size());
    const int64_t own = (options.zero == 1 ? b.counts : even)[size_t(c.rank())];
    const DType back = options.zero == 1 ? b.dtype : dtype;
    cost.bytes_sent +=
        (b.elements - own) * int64_t(size_of(wire)) + own * others * int64_t(size_of(back));
    ++cost.buckets;
    if (options.zero == 1) cost.bucket_bytes += size_t(own) * size_of(dtype);
    const size_t flat = options.zero == 0 || b.members.size() > 1 ? size_t(b.elements) : 0;
    const size_t narrow = wire == dtype ? 0 : size_t(b.elements);
    largest =
        std::max(largest, flat * size_of(dtype) + (narrow + size_t(own * others)) * size_of(wire));
  }
  cost.bucket_bytes += largest;
  cost.buckets_in_backward = int64_t(in_backward_);
  StepNews news{.losses = std::vector<MicroBatchLoss>(size_t(part.size())), .present = trained_};
  for (const ParameterRange& r : written)
    news.sums.resize(news.sums.size() + size_t(raw::norm_blocks(r.end - r.begin)));
  cost.bytes_sent += gathered_bytes(news_bytes_ > 0 ? news_bytes_ : pack(news).size(), comm.size());
  return cost;
}

DataParallel::DataParallel(Optimizer& optimizer, DataParallelOptions options, dist::Comm comm,
                           std::shared_ptr<ExpertParallel> experts)
    : impl_(std::make_unique<Impl>(optimizer, std::move(options), std::move(comm),
                                   std::move(experts))) {}
DataParallel::~DataParallel() = default;
const dist::Comm& DataParallel::comm() const { return impl_->comm; }
const DataParallelOptions& DataParallel::options() const { return impl_->options; }
Optimizer& DataParallel::optimizer() const { return impl_->optimizer; }
int64_t DataParallel::begin() const { return impl_->part.begin; }
int64_t DataParallel::end() const { return impl_->part.end; }
void DataParallel::backward(const Tensor& loss, int64_t targets, const Tensors& aux) {
  impl_->backward(loss, targets, aux);
}
StepInfo DataParallel::step(StepOptions options, const std::string& note) {
  return impl_->step(options, note);
}
void DataParallel::zero_grad() { impl_->clear(); }
int64_t DataParallel::targets() const { return impl_->targets; }
const std::vector<std::string>& DataParallel::notes() const { return impl_->notes; }
const std::vector<ParameterRange>& DataParallel::written() const { return impl_->written; }
ParallelCost DataParallel::cost() const { return impl_->cost(); }

}  // namespace olm::nn
