#include <olm/nn/generate.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>

namespace olm::nn {

namespace {

/// Prompts of one length that go through the model at once; more take more memory for no more
/// speed.
constexpr size_t kMaxBatch = 32;

/// Feeds tokens to a model and hands out the logits behind the last ones.
class Stepper {
 public:
  Stepper(Module& model, const GenerateOptions& options, int64_t capacity)
      : model_(model), device_(device_of(model)), options_(options) {
    if (options.use_cache) cache_.emplace(capacity);
  }

  /// Logits [B · V] after texts of equal length from `begin` on, of which all but the last `fresh`
  /// ids were given before.
  std::vector<float> logits(const std::vector<std::span<const int32_t>>& texts, size_t begin,
                            size_t fresh) {
    if (!cache_) return pass(texts, begin);
    const size_t first_fresh = texts[0].size() - fresh;
    if (first_fresh > begin) {
      try {
        return pass(texts, first_fresh);
      } catch (const StaleCacheError&) {
        // The new tokens change how layers compute the ones in the cache.
      }
    }
    cache_->clear();
    return pass(texts, begin);
  }

 private:
  /// The logits behind what the cache holds and the ids from `begin` on.
  std::vector<float> pass(const std::vector<std::span<const int32_t>>& texts, size_t begin) {
    Context ctx{.dtype = options_.dtype};
    if (cache_) {
      cache_->begin();
      ctx.cache = &*cache_;
    }
    std::vector<int64_t> ids;
    for (const auto text : texts) ids.insert(ids.end(), text.begin() + int64_t(begin), text.end());
    const int64_t batch = int64_t(texts.size()), count = int64_t(texts[0].size() - begin);
    const Tensor y = model_.forward(from_host(ids, {batch, count}, device_), ctx);
    require(y.rank() == 3 && y.size(0) == batch && y.size(1) == count, "generate: the model made ",
            y.shape(), " of ids [", batch, ",", count, "], logits [B,T,V] were wanted");
    if (cache_) cache_->advance(count);
    return to_host<float>(raw::select(y, 1, count - 1));
  }

  Module& model_;
  const Device device_;
  const GenerateOptions& options_;
  std::optional<KVCache> cache_;
};

/// The natural logarithm of a token's probability under softmax(logits).
double log_probability(std::span<const float> logits, int32_t id) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double(logit) - best);
  return double(logits[size_t(id)]) - best - std::log(sum);
}

/// A prompt and what becomes of it.
class Text {
 public:
  Text(size_t number, std::span<const int32_t> prompt, const GenerateOptions& options,
       const Tokenizer* tokenizer)
      : number_(number),
        options_(options),
        all_(prompt.begin(), prompt.end()),
        rng_(derive_seed(options.seed, "generate")),
        filter_(options.stop_strings) {
    if (!tokenizer) return;
    decoder_.emplace(*tokenizer);
    known_ = size_t(tokenizer->vocab_size());
  }

  std::span<const int32_t> ids() const { return all_; }
  bool done() const { return done_; }

  /// Draws the next token. A text that is done goes on with any, so that the others of its batch
  /// find it as long as they are.
  void step(std::span<float> logits, const OnGenerated& on_token) {
    if (done_) return all_.push_back(all_.back());
    double given = 0;
    std::vector<float> as_given;
    if (options_.logprobs) as_given.assign(logits.begin(), logits.end());
    logits = logits.first(std::min(logits.size(), known_));
    penalize_repetition(logits, all_, options_.repetition_penalty);
    const int32_t id = sample_token(logits, options_, rng_);
    if (options_.logprobs) given = log_probability(as_given, id);
    all_.push_back(id);
    if (std::find(options_.stop.begin(), options_.stop.end(), id) != options_.stop.end())
      return end(StopReason::stop_id);
    result_.ids.push_back(id);
    if (options_.logprobs) result_.logprobs.push_back(given);
    const std::string text = decoder_ ? filter_.push(decoder_->push(id)) : std::string();
    result_.text += text;
    const bool goes_on = !on_token || on_token(number_, id, text);
    if (filter_.stopped()) return end(StopReason::stop_string);
    if (!goes_on) end(StopReason::callback);
  }

  Generated result() && {
    if (decoder_) {
      result_.text += filter_.push(decoder_->finish());
      result_.text += filter_.finish();
      if (filter_.stopped()) result_.reason = StopReason::stop_string;
    }
    return std::move(result_);
  }

 private:
  void end(StopReason reason) {
    done_ = true;
    result_.reason = reason;
  }
  size_t number_;
  const GenerateOptions& options_;
  std::vector<int32_t> all_;
  Generator rng_;
  std::optional<StreamDecoder> decoder_;
  size_t known_ = SIZE_MAX;  // ids that have a token; the rows behind them are padding
  StopFilter filter_;
  Generated result_;
  bool done_ = false;
};

/// Continues texts of equal length together.
void run(Module& model, const std::vector<Text*>& texts, const GenerateOptions& o,
         const OnGenerated& on_token) {
  const auto all = [&] {
    std::vector<std::span<const int32_t>> ids;
    for (const Text* text : texts) ids.push_back(text->ids());
    return ids;
  };
  size_t length = texts[0]->ids().size();
  const int64_t longest = int64_t(length) + o.tokens;
  const int64_t limit = o.context > 0 ? std::min(o.context, longest) : longest;
  Stepper stepper(model, o, limit);
  // The model sees [begin, length) of the ids; where that outgrows it, it goes on with the last
  // half.
  size_t begin = length > size_t(limit) ? length - size_t(limit) : 0;
  size_t fresh = length - begin;
  for (int64_t made = 0; made < o.tokens; ++made, ++length, fresh = 1) {
    if (length - begin > size_t(limit)) {
      begin = length - size_t(std::max<int64_t>(1, limit / 2));
      fresh = length - begin;
    }
    std::vector<float> logits = stepper.logits(all(), begin, fresh);
    const size_t vocab = logits.size() / texts.size();
    for (size_t i = 0; i < texts.size(); ++i)
      texts[i]->step(std::span(logits).subspan(i * vocab, vocab), on_token);
    if (std::all_of(texts.begin(), texts.end(), [](const Text* text) { return text->done(); }))
      return;
  }
}

void check(const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& o,
           const Tokenizer* tokenizer) {
  for (size_t i = 0; i < prompts.size(); ++i)
    require(!prompts[i].empty(), "generate: a prompt is empty, number ", i,
            "; at least one token was wanted");
  check_fields(o, "generate");
  require(o.context == 0 || o.context >= 2, "generate: context wants at least 2, got ", o.context);
  require(tokenizer || o.stop_strings.empty(),
          "generate: stop_strings want generate_batch with a tokenizer");
}

}  // namespace

const char* name_of(StopReason reason) {
  switch (reason) {
    case StopReason::tokens:
      return "tokens";
    case StopReason::stop_id:
      return "stop_id";
    case StopReason::stop_string:
      return "stop_string";
    case StopReason::callback:
      return "callback";
  }
  fail("there is no StopReason ", int(reason));
}

Device device_of(Module& model) {
  const Tensors parameters = model.parameters();
  for (const Tensor& p : parameters)
    if (p.device() != meta) return p.device();  // others may be on another rank
  return parameters.empty() ? cpu : meta;
}

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

std::vector<Generated> generate_batch(Module& model,
                                      const std::vector<std::vector<int32_t>>& prompts,
                                      const GenerateOptions& options, const Tokenizer* tokenizer,
                                      const OnGenerated& on_token) {
  check(prompts, options, tokenizer);
  NoGrad guard;
  std::vector<Text> texts;
  std::map<size_t, std::vector<size_t>> by_length;
  for (size_t i = 0; i < prompts.size(); ++i) {
    texts.emplace_back(i, prompts[i], options, tokenizer);
    by_length[prompts[i].size()].push_back(i);
  }
  for (const auto& [length, numbers] : by_length) {
    for (size_t first = 0; first < numbers.size(); first += kMaxBatch) {
      std::vector<Text*> batch;
      for (size_t i = first; i < std::min(numbers.size(), first + kMaxBatch); ++i)
        batch.push_back(&texts[numbers[i]]);
      run(model, batch, options, on_token);
    }
  }
  std::vector<Generated> results;
  for (Text& text : texts) results.push_back(std::move(text).result());
  return results;
}

std::vector<int32_t> generate(Module& model, std::span<const int32_t> prompt,
                              const GenerateOptions& options, const OnToken& on_token) {
  OnGenerated told;
  if (on_token) told = [&](size_t, int32_t id, std::string_view) { return on_token(id); };
  const std::vector<std::vector<int32_t>> prompts{{prompt.begin(), prompt.end()}};
  return std::move(generate_batch(model, prompts, options, nullptr, told)[0].ids);
}

}  // namespace olm::nn
