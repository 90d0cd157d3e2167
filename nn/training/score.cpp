// The negative log-likelihood of whole texts, in windows that may overlap.
#include <algorithm>
#include <chrono>
#include <cmath>

#include <olm/autograd/ops/combine.h>
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/training.h>

namespace olm::nn {

namespace {

constexpr int64_t kIgnored = -100;  // a target that another window scores

/// Inputs [begin, end) of a sequence, whose targets are one further; those of the inputs before
/// `fresh` are scored by the window before.
struct Window {
  size_t text = 0;
  int64_t begin = 0, fresh = 0, end = 0;
  auto shape() const { return std::pair(end - begin, fresh - begin); }
};

/// Windows over `inputs` inputs that score each target once, with as much before it as fits.
void add_windows(size_t text, int64_t inputs, const ScoreOptions& o, std::vector<Window>& all) {
  for (int64_t begin = 0, scored = 0; scored < inputs; begin += o.stride) {
    const int64_t end = std::min(begin + o.context, inputs);
    all.push_back({text, begin, scored, end});
    scored = end;
  }
}

/// A text with the token before it.
class Sequence {
 public:
  Sequence(const TokenDataset& text, const std::optional<int64_t>& start)
      : text_(text), start_(start) {}
  int64_t size() const { return text_.size() + (start_ ? 1 : 0); }
  void read(int64_t begin, int64_t n, int64_t* ids) const {
    const int64_t before = start_ ? 1 : 0;
    if (start_ && begin == 0 && n > 0) {
      *ids = *start_;
      return text_.read(0, n - 1, ids + 1);
    }
    text_.read(begin - before, n, ids);
  }

 private:
  const TokenDataset& text_;
  const std::optional<int64_t>& start_;
};

struct Chunk {
  Tensor inputs, targets;
  int64_t tokens = 0;  // that count
};

/// Windows of one shape.
Chunk batch_of(std::span<const Window> windows, std::span<const TokenDataset> texts,
               const ScoreOptions& o) {
  const int64_t rows = int64_t(windows.size()), length = windows[0].end - windows[0].begin;
  std::vector<int64_t> inputs, targets, ids(size_t(length) + 1);
  int64_t tokens = 0;
  for (const Window& w : windows) {
    Sequence(texts[w.text], o.start).read(w.begin, length + 1, ids.data());
    inputs.insert(inputs.end(), ids.begin(), ids.end() - 1);
    const auto first = targets.insert(targets.end(), ids.begin() + 1, ids.end());
    std::fill_n(first, w.fresh - w.begin, kIgnored);
    tokens += w.end - w.fresh;
  }
  return {from_host(inputs, {rows, length}), from_host(targets, {rows, length}), tokens};
}

}  // namespace

ScoreReport score(Module& model, std::span<const TokenDataset> texts, const ScoreOptions& given) {
  constexpr int64_t kTokensAtOnce = 16384;
  ScoreOptions o = given;
  if (o.stride == 0) o.stride = o.context;
  require(o.context >= 1 && o.stride >= 1 && o.stride <= o.context,
          "score: a context of at least 1 and a stride from 1 to it were wanted, got ", o.context,
          " and ", o.stride);
  const auto begin = std::chrono::steady_clock::now();
  NoGrad guard;
  const Device device = device_of(model);
  ScoreReport report;
  std::vector<Window> windows;
  for (size_t i = 0; i < texts.size(); ++i) {
    add_windows(i, Sequence(texts[i], o.start).size() - 1, o, windows);
    report.tokens += texts[i].size();
    if (!o.start && texts[i].size() > 0) report.nats += std::log(double(texts[i].vocab_size()));
  }
  std::stable_sort(windows.begin(), windows.end(),
                   [](const Window& a, const Window& b) { return a.shape() > b.shape(); });
  Tensors losses;  // read when all is queued: each reading waits for the device
  std::vector<double> counts;
  for (size_t at = 0, end; at < windows.size(); at = end) {
    const int64_t length = windows[at].end - windows[at].begin;
    const size_t most = at + size_t(std::max<int64_t>(1, kTokensAtOnce / length));
    for (end = at; end < std::min(most, windows.size());)
      if (windows[end].shape() == windows[at].shape())
        ++end;
      else
        break;
    const Chunk batch = batch_of(std::span(windows).subspan(at, end - at), texts, o);
    Context ctx{.dtype = o.dtype};
    if (o.end_of_text) set_documents(ctx, batch.inputs, *o.end_of_text, device);
    losses.push_back(
        model.loss(raw::to(batch.inputs, device), raw::to(batch.targets, device), ctx));
    counts.push_back(double(batch.tokens));
  }
  std::vector<double> means;
  if (!losses.empty()) means = to_host<double>(stack(losses));
  for (size_t i = 0; i < means.size(); ++i) report.nats += means[i] * counts[i];
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace olm::nn
