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

/// How texts are continued. A token is drawn from what candidates() leaves of the model's
/// distribution, whose logits penalize_repetition() changed before.
struct GenerateOptions {
  int64_t tokens = 200;      ///< at most so many new ones
  double temperature = 1.0;  ///< logits are divided by it; 0 takes the likeliest token
  int64_t top_k = 0;         ///< sample among the k likeliest; 0 is all
  double top_p = 1.0;        ///< sample among the likeliest that together reach this probability
  double min_p = 0;          ///< sample among those at least this many times as likely as the first
  double repetition_penalty = 1;  ///< above 1, tokens that were there are less likely; 1 is none
  uint64_t seed = 0;              ///< of the random stream, of which each prompt has its own
  /// Tokens that the model can take at once; 0 is without limit. Where more come, the model goes on
  /// with the last half of them.
  int64_t context = 0;
  /// Keep keys and values of earlier tokens; the result is the same. Where a layer throws a
  /// StaleCacheError all tokens pass again.
  bool use_cache = true;
  DType dtype = f32;               ///< of activations
  std::vector<int32_t> stop = {};  ///< ids that end the text; they are not part of it
  /// Strings that end the new text, which stands before the first of them; in UTF-8. They may begin
  /// and end within tokens. They want a tokenizer.
  std::vector<std::string> stop_strings = {};
  bool logprobs = false;  ///< report the probability of each token
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

/// Told each new token at once; false ends the text.
using OnToken = std::function<bool(int32_t id)>;

/// Continues `prompt` (ids, at least one) and returns the new ids. Equal model, prompt and options
/// give equal ids. `model` maps ids [1,T] to logits [1,T,V]. Throws for options that cannot be and
/// for logits that are not finite.
OLM_API std::vector<int32_t> generate(Module& model, std::span<const int32_t> prompt,
                                      const GenerateOptions& options = {},
                                      const OnToken& on_token = {});
template <class M>
std::vector<int32_t> generate(const Ref<M>& model, std::span<const int32_t> prompt,
                              const GenerateOptions& options = {}, const OnToken& on_token = {}) {
  return generate(*model, prompt, options, on_token);
}

/// Why a text ended: at options.tokens, at an id of options.stop, at one of options.stop_strings,
/// or since the callback said so.
enum class StopReason : uint8_t { tokens, stop_id, stop_string, callback };
OLM_API const char* name_of(StopReason reason);

/// How a model continued one prompt.
struct Generated {
  std::vector<int32_t> ids = {};  ///< without a stop id, with those that made up a stop string
  /// With options.logprobs, of each id the natural logarithm of the probability that the model gave
  /// it: its log-softmax, which no option changes.
  std::vector<double> logprobs = {};
  /// With a tokenizer: what the ids say, up to a stop string, in valid UTF-8. Bytes that are part
  /// of no character become U+FFFD.
  std::string text = {};
  StopReason reason = StopReason::tokens;
};

/// Told of a prompt (its number) each new token, and the text that is certain by then to be part of
/// the result; false ends the text of this prompt.
using OnGenerated = std::function<bool(size_t prompt, int32_t id, std::string_view text)>;

/// Continues several prompts, each as if it were alone: with a random stream of its own from the
/// same seed. Prompts of equal length go through the model together, as ids [B,T] to logits
/// [B,T,V]: the texts are those of single prompts unless a draw lies so close between two tokens
/// that the rounding of a batch decides. `tokenizer` makes the text; without one, stop_strings
/// throw. An empty prompt throws with its number, all else as above.
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

/// Changes the logits of `ids`, each once, by which repetition becomes less likely: a positive one
/// is divided by `penalty`, a negative one multiplied. Keskar et al. 2019, arXiv:1909.05858. Ids
/// outside the logits throw.
OLM_API void penalize_repetition(std::span<float> logits, std::span<const int32_t> ids,
                                 double penalty);

/// A token that may be next.
struct Candidate {
  int32_t id = 0;
  double probability = 0;
};
/// The tokens that sample_token draws from, with their probabilities, likeliest first and equal
/// ones by id. Of softmax(logits / temperature) the top_k likeliest stay; of these, those that
/// together reach top_p of their sum (Holtzman et al. 2020, arXiv:1904.09751); of these, those of
/// at least min_p times the probability of the first (Nguyen et al. 2024, arXiv:2407.01082).
/// Probabilities are those of what stays, and at temperature 0 that of the likeliest token is 1.
OLM_API std::vector<Candidate> candidates(std::span<const float> logits,
                                          const GenerateOptions& options);
/// Draws one of candidates().
OLM_API int32_t sample_token(std::span<const float> logits, const GenerateOptions& options,
                             Generator& rng);

/// Cuts a stream of text before the first of some strings: the one whose last byte comes first, of
/// several of these the longest.
class OLM_API StopFilter {
 public:
  /// Throws for a string that is empty or not UTF-8.
  explicit StopFilter(std::vector<std::string> stops);
  /// The text that is certain by now to come before a stop string. What follows one is dropped.
  std::string push(std::string_view text);
  /// What was held back since it might have begun one.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

/// Tokens that a model can take at once: the least `max_seq_len` among the options of its layers; 0
/// where none has one.
OLM_API int64_t context_of(Module& model);

}  // namespace olm::nn
