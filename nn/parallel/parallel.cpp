#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/parallel/impl_internal.h>
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
  std::unordered_map<const TensorImpl*, int64_t> left;
  for (size_t i = 0; i < parameters.size(); ++i) left[&parameters[i].impl()] = int64_t(i);
  std::vector<int64_t> numbers;
  for (const Tensors* list : {&order, &parameters})
    for (size_t i = list->size(); i > 0; --i)
      if (const auto found = left.find(&(*list)[i - 1].impl()); found != left.end()) {
        numbers.push_back(found->second);
        left.erase(found);
      }
  return numbers;
}

}  // namespace

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
    written = whole_ranges(true);
    optimizer.set_ranges(written);
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

/// Parameters in the order in which backward reaches them; those on meta are other ranks'.
std::vector<Member> DataParallel::Impl::members() const {
  std::unordered_set<const TensorImpl*> spread;
  if (experts_)
    for (const ExpertParallel::Source& s : experts_->sources()) spread.insert(&s.parameter.impl());
  std::vector<Member> result;
  for (const int64_t i : reverse_order(parameters_, options.order)) {
    const Tensor& p = parameters_[size_t(i)];
    if (p.device() != meta)
      result.push_back({.parameter = i,
                        .numel = p.numel(),
                        .dtype = p.dtype(),
                        .trained = trained_[size_t(i)],
                        .expert = spread.count(&p.impl()) > 0,
                        .divisible = optimizer.update_of(i).divisible});
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
  facts.emplace_back("options of the optimizer", optimizer.describe());
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
  optimizer.set_ranges(options.zero == 1 ? written : whole_ranges(false));
}

std::vector<ParameterRange> DataParallel::Impl::whole_ranges(bool with_meta) const {
  std::vector<ParameterRange> ranges;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (with_meta || parameters_[i].device() != meta)
      ranges.push_back({int64_t(i), 0, parameters_[i].numel()});
  return ranges;
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
    // Where rows travel, ranks wait for each other here, and one of them, whose graph lacks a
    // parameter, may have no gradient of it to send until its end.
    if (transfer_) transfer_->set_waiting(!experts_ || experts_->group().size() == 1);
    olm::backward(loss, how);
    if (!transfer_) return;
    in_backward_ = transfer_->departed();
    transfer_->set_waiting(true);
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
