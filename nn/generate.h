#pragma once
// Sampling from a model, token by token.
#include <functional>
#include <span>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

struct GenerateOptions {
  int64_t tokens = 200;      ///< at most so many new ones
  double temperature = 1.0;  ///< logits are divided by it; 0 takes the likeliest token
  int64_t top_k = 0;         ///< sample among the k likeliest; 0 is all
  double top_p = 1.0;        ///< sample among the likeliest that together reach this probability
  uint64_t seed = 0;         ///< of the random stream
  /// Tokens that the model can take at once; 0 is without limit. Where more come, the model goes on
  /// with the last half of them.
  int64_t context = 0;
  bool use_cache = true;  ///< keep keys and values of earlier tokens; the result is the same
  DType dtype = f32;      ///< of activations
  std::vector<int32_t> stop = {};  ///< ids that end the text; they are not part of it
  void fields(auto& v) {
    v("tokens", tokens);
    v("temperature", temperature);
    v("top_k", top_k);
    v("top_p", top_p);
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

/// Draws one id from logits as the options say; Holtzman et al. 2020, arXiv:1904.09751 (top-p).
OLM_API int32_t sample_token(std::span<const float> logits, const GenerateOptions& options,
                             Generator& rng);

/// Tokens that a model can take at once: the least `max_seq_len` among the options of its layers; 0
/// where none has one.
OLM_API int64_t context_of(Module& model);

}  // namespace olm::nn
