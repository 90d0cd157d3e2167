#pragma once
// What reading and writing vocabularies of GGUF files share.
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

/// tokenizer.ggml.token_type
enum class TokenType : int32_t { normal = 1, unknown, control, user_defined, unused, byte };

}  // namespace olm::nn::formats
