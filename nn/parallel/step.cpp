// The step of DataParallel: sums of all ranks, the update, and who gets what of it.
#include <algorithm>

#include <olm/engine/raw.h>
#include <olm/nn/parallel/impl_internal.h>

namespace olm::nn {

using namespace parallel;

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

namespace {

/// The values of scalars that are together on a device: one copy brings all to the host.
std::vector<double> values_of(const Tensors& scalars) {
  const Tensor all = empty({int64_t(scalars.size())}, options_of(scalars[0]));
  for (size_t i = 0; i < scalars.size(); ++i)
    raw::copy_(raw::view(raw::slice(all, 0, int64_t(i), int64_t(i) + 1), scalars[i].shape()),
               scalars[i]);
  return to_host<double>(all);
}

}  // namespace

/// What this rank tells the others, but for who had gradients.
StepNews DataParallel::Impl::local_news(const Tensors& owned_sums) const {
  StepNews news;
  Tensors scalars;
  for (const Loss& loss : losses_) {
    scalars.push_back(loss.loss);
    scalars.insert(scalars.end(), loss.aux.begin(), loss.aux.end());
  }
  const std::vector<double> values = values_of(scalars);
  auto next = values.begin();
  for (const Loss& loss : losses_) {
    MicroBatchLoss l{.loss = *next++, .targets = loss.targets};
    for (size_t i = 0; i < loss.aux.size(); ++i) l.aux.push_back(*next++);
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
  const TensorOptions as = options_of(losses_[0].loss);
  const auto scalar = [&](double v) { return full({}, v, as); };
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
    update_owned(std::move(owned_sums), present);
  else
    update_all(present);
  return optimizer.end_step(sums, present);
}

/// Bucket by bucket, while the weights of those before go to the other ranks.
void DataParallel::Impl::update_owned(Tensors owned_sums, const std::vector<bool>& present) {
  const size_t buckets = transfer_->buckets().size();
  for (size_t b = 0; b < buckets; ++b) {
    if (b >= kUnderWay) transfer_->finish_hand_out(b - kUnderWay);
    const size_t first = transfer_->first_owned(b), end = transfer_->first_owned(b + 1);
    Tensors gradients(end - first);
    for (size_t i = first; i < end; ++i)
      if (present[size_t(written[i].parameter)]) gradients[i - first] = std::move(owned_sums[i]);
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

}  // namespace olm::nn
