#include <algorithm>
#include <chrono>
#include <optional>

#include <olm/autograd/ops/combine.h>
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/math.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>

namespace olm::nn {

namespace {

/// A dataset cut into batches of whole windows, and one of a shorter window with what is left.
class EvalBatches {
 public:
  EvalBatches(const TokenDataset& data, int64_t context, bool with_rest)
      : windows_(data, {.batch = std::max<int64_t>(1, kTokensAtOnce / context),
                        .context = context,
                        .shuffle = false}) {
    const int64_t done = windows_.windows() * context, rest = data.size() - 1 - done;
    whole_ = kernels::ceil_div(windows_.windows(), windows_.options().batch);
    if (with_rest && rest > 0)
      rest_.emplace(data.slice(done, data.size()),
                    LoaderOptions{.context = rest, .shuffle = false});
  }
  int64_t size() const { return whole_ + (rest_ ? 1 : 0); }
  Batch at(int64_t i) const { return i < whole_ ? windows_.at(i) : rest_->at(0); }

 private:
  static constexpr int64_t kTokensAtOnce = 16384;
  Loader windows_;
  std::optional<Loader> rest_;
  int64_t whole_ = 0;
};

/// Of a batch.
struct BatchLoss {
  double mean = 0;
  int64_t tokens = 0;
};

/// Those of all ranks, of which rank r of n has numbers r, r + n, …
std::vector<BatchLoss> gather(const std::vector<BatchLoss>& mine, const dist::Comm& comm) {
  if (comm.size() == 1) return mine;
  ranks::ByteWriter writer;
  for (const BatchLoss& loss : mine) writer.put(loss);
  const std::vector<std::string> bytes = comm.all_gather(writer.take());
  std::vector<ranks::ByteReader> readers(bytes.begin(), bytes.end());
  std::vector<BatchLoss> all;
  for (size_t i = 0; !readers[i % readers.size()].done(); ++i)
    all.push_back(readers[i % readers.size()].get<BatchLoss>());
  return all;
}

}  // namespace

EvalReport evaluate(Module& model, const TokenDataset& data, int64_t context, DType dtype,
                    const std::function<bool()>& should_stop, bool with_rest,
                    std::optional<int64_t> end_of_text, const dist::Comm& comm) {
  const auto start = std::chrono::steady_clock::now();
  NoGrad guard;
  const Device device = device_of(model);
  const EvalBatches batches(data, context, with_rest);
  EvalReport report;
  Tensors losses;  // read when all is queued: each reading waits for the device
  std::vector<BatchLoss> mine;
  for (int64_t first = 0; first < batches.size(); first += comm.size()) {
    if (ranks::on_any_rank(comm, should_stop && should_stop())) {
      report.finished = false;
      return report;
    }
    // All ranks run a batch at the same time, as experts that are spread over them want. Those for
    // which none is left run the last one again, which is not counted.
    const int64_t number = first + comm.rank();
    const Batch batch = batches.at(std::min(number, batches.size() - 1));
    Context ctx{.dtype = dtype};
    if (end_of_text) set_documents(ctx, batch.inputs, *end_of_text, device);
    const Tensor loss =
        model.loss(raw::to(batch.inputs, device), raw::to(batch.targets, device), ctx);
    if (number >= batches.size()) continue;
    losses.push_back(loss);
    mine.push_back({.tokens = batch.targets.numel()});
  }
  std::vector<double> means;
  if (!losses.empty()) means = to_host<double>(stack(losses));
  for (size_t i = 0; i < means.size(); ++i) mine[i].mean = means[i];
  double sum = 0;
  for (const BatchLoss& loss : gather(mine, comm)) {
    sum += loss.mean * double(loss.tokens);
    report.tokens += loss.tokens;
  }
  report.loss = sum / double(report.tokens);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace olm::nn
