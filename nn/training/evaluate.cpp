#include <algorithm>
#include <chrono>
#include <numeric>

#include <olm/autograd/ops/combine.h>
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/training.h>

namespace olm::nn {

EvalReport evaluate(Module& model, const TokenDataset& data, int64_t context, DType dtype,
                    const std::function<bool()>& should_stop, bool with_rest,
                    std::optional<int64_t> end_of_text) {
  constexpr int64_t kTokensAtOnce = 16384;
  const auto start = std::chrono::steady_clock::now();
  NoGrad guard;
  const Device device = device_of(model);
  Loader windows(data, {.batch = std::max<int64_t>(1, kTokensAtOnce / context),
                        .context = context,
                        .shuffle = false});
  EvalReport report;
  Tensors losses;  // read when all is queued: each reading waits for the device
  std::vector<double> counts;
  const auto add = [&](const Batch& batch) {
    if (should_stop && should_stop()) return report.finished = false;
    Context ctx{.dtype = dtype};
    if (end_of_text) set_documents(ctx, batch.inputs, *end_of_text, device);
    const int64_t tokens = batch.targets.numel();
    losses.push_back(
        model.loss(raw::to(batch.inputs, device), raw::to(batch.targets, device), ctx));
    counts.push_back(double(tokens));
    report.tokens += tokens;
    return true;
  };
  for (const Batch& batch : windows)
    if (!add(batch)) return report;
  const int64_t done = windows.windows() * context, rest = data.size() - 1 - done;
  if (with_rest && rest > 0) {  // a shorter window
    Loader last(data.slice(done, data.size()), {.context = rest, .shuffle = false});
    if (!add(last.next())) return report;
  }
  std::vector<double> means;
  if (!losses.empty()) means = to_host<double>(stack(losses));
  report.loss =
      std::inner_product(means.begin(), means.end(), counts.begin(), 0.0) / double(report.tokens);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace olm::nn
