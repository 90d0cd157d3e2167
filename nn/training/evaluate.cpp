#include <algorithm>
#include <chrono>

#include <olm/autograd/tape.h>
#include <olm/nn/training.h>

namespace olm::nn {

EvalReport evaluate(Module& model, const TokenDataset& data, int64_t context, DType dtype,
                    const std::function<bool()>& should_stop) {
  constexpr int64_t kTokensAtOnce = 16384;
  const auto start = std::chrono::steady_clock::now();
  NoGrad guard;
  Loader windows(data, {.batch = std::max<int64_t>(1, kTokensAtOnce / context),
                        .context = context,
                        .shuffle = false});
  EvalReport report;
  double sum = 0;
  for (Batch& batch : windows) {
    if (should_stop && should_stop()) {
      report.finished = false;
      return report;
    }
    Context ctx{.dtype = dtype};
    const int64_t tokens = batch.targets.numel();
    sum += model.loss(batch.inputs, batch.targets, ctx).item<double>() * double(tokens);
    report.tokens += tokens;
  }
  report.loss = sum / double(report.tokens);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace olm::nn
