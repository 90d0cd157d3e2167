#pragma once
// What DataParallel is made of.
#include <memory>
#include <string>
#include <vector>

#include <olm/nn/parallel.h>
#include <olm/nn/parallel/agree_internal.h>
#include <olm/nn/parallel/local_sums_internal.h>
#include <olm/nn/parallel/step_exchange_internal.h>
#include <olm/nn/parallel/transfer_internal.h>

namespace olm::nn {

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
  std::vector<parallel::Member> members() const;
  parallel::Facts facts() const;
  void share_ranges();
  std::vector<ParameterRange> whole_ranges(bool with_meta) const;
  parallel::StepNews local_news(const Tensors& owned_sums) const;
  void add_losses(const std::vector<parallel::StepNews>& news);
  Tensor all_sums(const std::vector<parallel::StepNews>& news) const;
  StepInfo step_alone(const StepOptions& how);
  StepInfo step_together(const StepOptions& how, const std::string& note);
  void update_owned(Tensors owned_sums, const std::vector<bool>& present);
  void update_all(const std::vector<bool>& present);

  std::shared_ptr<ExpertParallel> experts_;
  Tensors parameters_;
  std::vector<bool> trained_;
  std::unique_ptr<parallel::LocalSums> sums_;
  std::unique_ptr<parallel::Transfer> transfer_;    // among ranks
  std::vector<std::vector<ParameterRange>> owned_;  // by each rank
  Tensors alone_sums_;                              // by parameter, in a world of one
  std::vector<Loss> losses_;
  int64_t next_ = 0;  // micro-batches of this rank that are done
  bool broken_ = false;
  int64_t in_backward_ = 0;  // buckets of the last step that left before its backward had ended
  size_t news_bytes_ = 0;
};

}  // namespace olm::nn
