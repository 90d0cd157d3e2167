#pragma once
// Sampling from a model, token by token.
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <olm/nn/module.h>
#include <olm/nn/text.h>

namespace olm::nn {

/// Options of sampling and of when a text ends. Logits are changed by penalize_repetition(), then
/// candidates() applies temperature, top_k, top_p and min_p, then a token is drawn.
struct GenerateOptions {
  int64_t tokens = 200;           ///< the largest number of new tokens
  double temperature = 1.0;       ///< divides the logits; 0 takes the likeliest token
  int64_t top_k = 0;              ///< sample among the k likeliest; 0: all
  double top_p = 1.0;             ///< sample among the likeliest that together reach it
  double min_p = 0;               ///< sample among those of min_p times the largest probability
  double repetition_penalty = 1;  ///< above 1, earlier tokens are less likely; 1: none
  uint64_t seed = 0;              ///< of the random streams, one for each prompt
  /// The largest number of tokens that the model takes; 0: no limit. Where a text grows longer, the
  /// model continues from its last context / 2 tokens.
  int64_t context = 0;
  /// Key-value cache; results are the same without. Where a layer throws a StaleCacheError all
  /// tokens pass again.
  bool use_cache = true;
  DType dtype = f32;               ///< of activations
  std::vector<int32_t> stop = {};  ///< ids that end the text, not part of it
  /// UTF-8 strings that end the new text, not part of it. They may begin and end inside a token,
  /// and need a tokenizer.
  std::vector<std::string> stop_strings = {};
  bool logprobs = false;  ///< report log probabilities of new tokens
  void fields(auto& v) {
    v("tokens", tokens, {.min = 0, .max = 1000000000, .help = "tokens per sample"});
    v("temperature", temperature, {.min = 0, .max = 1e6, .help = "0 takes the likeliest token"});
    v("top_k", top_k, {.min = 0, .max = 1000000000, .help = "sample among so many; 0 is all"});
    v("top_p", top_p,
      {.min = 1e-9,
       .max = 1,
       .help = "sample among the likeliest that together have this probability"});
    v("min_p", min_p,
      {.min = 0,
       .max = 1,
       .help = "sample among those at least this many times as likely as the likeliest"});
    v("repetition_penalty", repetition_penalty,
      {.min = 1e-3,
       .max = 1e3,
       .help = "above 1, tokens of the prompt and the text so far become less likely"});
  }
};

/// Called with each new token; false ends the text.
using OnToken = std::function<bool(int32_t id)>;

/// Continues `prompt` (ids, at least one) and returns the new ids. Equal model, prompt and options
/// give equal ids. `model` maps ids [1,T] to logits [1,T,V]. Throws for options out of range and
/// for logits that are not finite.
OLM_API std::vector<int32_t> generate(Module& model, std::span<const int32_t> prompt,
                                      const GenerateOptions& options = {},
                                      const OnToken& on_token = {});
template <class M>
std::vector<int32_t> generate(const Ref<M>& model, std::span<const int32_t> prompt,
                              const GenerateOptions& options = {}, const OnToken& on_token = {}) {
  return generate(*model, prompt, options, on_token);
}

/// Why a text ended: options.tokens was reached, an id of options.stop or a string of
/// options.stop_strings came, or the callback returned false.
enum class StopReason : uint8_t { tokens, stop_id, stop_string, callback };
OLM_API const char* name_of(StopReason reason);

/// The continuation of one prompt.
struct Generated {
  std::vector<int32_t> ids = {};  ///< without a stop id, but with those of a stop string
  /// With options.logprobs, for each id its log-softmax of the model's logits: natural logarithms,
  /// before penalties, temperature and filters.
  std::vector<double> logprobs = {};
  /// With a tokenizer, the text of the ids up to a stop string, in valid UTF-8: bytes that form no
  /// character become U+FFFD.
  std::string text = {};
  StopReason reason = StopReason::tokens;
};

/// Called with each new token of a prompt (its index) and the new text that no stop string can take
/// back; false ends this prompt's text.
using OnGenerated = std::function<bool(size_t prompt, int32_t id, std::string_view text)>;

/// Continues several prompts, each as generate() would alone: each has a random stream of its own
/// from the same seed. Prompts of equal length go through the model as a batch, ids [B,T] to logits
/// [B,T,V]; texts equal those of single prompts unless a draw falls so close between two tokens
/// that the rounding of a batch decides. `tokenizer` decodes the text, and an id that it does not
/// have is never drawn; without one, stop_strings throw. Throws where generate() does, and for an
/// empty prompt, naming its index.
OLM_API std::vector<Generated> generate_batch(Module& model,
                                              const std::vector<std::vector<int32_t>>& prompts,
                                              const GenerateOptions& options = {},
                                              const Tokenizer* tokenizer = nullptr,
                                              const OnGenerated& on_token = {});

template <class M>
std::vector<Generated> generate_batch(const Ref<M>& model,
                                      const std::vector<std::vector<int32_t>>& prompts,
                                      const GenerateOptions& options = {},
                                      const Tokenizer* tokenizer = nullptr,
                                      const OnGenerated& on_token = {}) {
  return generate_batch(*model, prompts, options, tokenizer, on_token);
}

/// Repetition penalty: of each id in `ids`, once, a positive logit is divided by `penalty` and a
/// negative one multiplied. Throws for ids outside the logits. Keskar et al. 2019,
/// arXiv:1909.05858.
OLM_API void penalize_repetition(std::span<float> logits, std::span<const int32_t> ids,
                                 double penalty);

/// A possible next token.
struct Candidate {
  int32_t id = 0;
  double probability = 0;
};
/// The tokens that sample_token() draws from, likeliest first, equally likely ones by id. Of
/// softmax(logits / temperature) these stay: the top_k likeliest; of them the likeliest that
/// together reach top_p of their sum (Holtzman et al. 2020, arXiv:1904.09751); of them those of at
/// least min_p times the largest probability (Nguyen et al. 2024, arXiv:2407.01082). Probabilities
/// are normalised over what stays; at temperature 0 only the likeliest token does.
OLM_API std::vector<Candidate> candidates(std::span<const float> logits,
                                          const GenerateOptions& options);
/// Draws one of candidates().
OLM_API int32_t sample_token(std::span<const float> logits, const GenerateOptions& options,
                             Generator& rng);

/// Cuts a stream of text before a stop string: the one that is complete first, and of several that
/// end there the longest.
class OLM_API StopFilter {
 public:
  /// Throws for a string that is empty or not UTF-8.
  explicit StopFilter(std::vector<std::string> stops);
  /// Takes more text and returns what can be no part of a stop string. Text after one is dropped.
  std::string push(std::string_view text);
  /// The text that was held back as the possible beginning of a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

/// Where a model computes: the device of its first parameter; cpu without parameters.
OLM_API Device device_of(Module& model);
/// The largest number of tokens that a model takes: the smallest `max_seq_len` among the options of
/// its layers, or 0 where none has one.
OLM_API int64_t context_of(Module& model);

}  // namespace olm::nn
