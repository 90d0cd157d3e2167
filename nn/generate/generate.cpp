#include <olm/nn/generate.h>

#include <algorithm>
#include <optional>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>

namespace olm::nn {

namespace {

/// Feeds tokens to a model and hands out the logits behind the last one.
class Stepper {
 public:
  Stepper(Module& model, const GenerateOptions& options, int64_t capacity)
      : model_(model), options_(options) {
    if (options.use_cache) cache_.emplace(capacity);
  }

  /// Logits after `window`, of which all but the last `fresh` ids were given before.
  std::vector<float> logits(std::span<const int32_t> window, size_t fresh) {
    Context ctx{.dtype = options_.dtype};
    if (cache_) {
      if (fresh == window.size()) cache_->clear();
      cache_->begin();
      ctx.cache = &*cache_;
      window = window.last(fresh);
    }
    const int64_t count = int64_t(window.size());
    const std::vector<int64_t> ids(window.begin(), window.end());
    const Tensor y = model_.forward(from_host(ids, {1, count}), ctx);
    require(y.rank() == 3 && y.size(0) == 1 && y.size(1) == count, "generate: the model made ",
            y.shape(), " of ids [1,", count, "], logits [1,T,V] were wanted");
    if (cache_) cache_->advance(count);
    return to_host<float>(raw::select(raw::select(y, 0, 0), 0, count - 1));
  }

 private:
  Module& model_;
  const GenerateOptions& options_;
  std::optional<KVCache> cache_;
};

void check(std::span<const int32_t> prompt, const GenerateOptions& o) {
  require(!prompt.empty(), "generate: the prompt is empty, at least one token was wanted");
  require(o.tokens >= 0, "generate: tokens wants at least 0, got ", o.tokens);
  require(o.context == 0 || o.context >= 2, "generate: context wants at least 2, got ", o.context);
}

}  // namespace

int64_t context_of(Module& model) {
  int64_t least = 0;
  model.for_each_module([&](const std::string&, Module& module) {
    const Json options = module.options_json();
    const Json* limit = options.is_object() ? options.find("max_seq_len") : nullptr;
    if (!limit || !limit->is_integer()) return;
    least = least == 0 ? limit->as_int() : std::min(least, limit->as_int());
  });
  return least;
}

std::vector<int32_t> generate(Module& model, std::span<const int32_t> prompt,
                              const GenerateOptions& o, const OnToken& on_token) {
  check(prompt, o);
  NoGrad guard;
  Generator rng(derive_seed(o.seed, "generate"));
  std::vector<int32_t> all(prompt.begin(), prompt.end()), made;
  const int64_t longest = int64_t(prompt.size()) + o.tokens;
  const int64_t limit = o.context > 0 ? std::min(o.context, longest) : longest;
  Stepper stepper(model, o, limit);
  // The model sees all[begin, end); where that outgrows it, it goes on with the last half.
  size_t begin = all.size() > size_t(limit) ? all.size() - size_t(limit) : 0;
  size_t fresh = all.size() - begin;
  while (int64_t(made.size()) < o.tokens) {
    if (all.size() - begin > size_t(limit)) {
      begin = all.size() - size_t(std::max<int64_t>(1, limit / 2));
      fresh = all.size() - begin;
    }
    const std::vector<float> logits =
        stepper.logits(std::span<const int32_t>(all).subspan(begin), fresh);
    const int32_t id = sample_token(logits, o, rng);
    if (std::find(o.stop.begin(), o.stop.end(), id) != o.stop.end()) break;
    all.push_back(id);
    made.push_back(id);
    fresh = 1;
    if (on_token && !on_token(id)) break;
  }
  return made;
}

}  // namespace olm::nn
