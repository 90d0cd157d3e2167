#pragma once
// What a complete configuration means.
#include <olm/nn/decoder.h>

namespace olm::nn {

/// Hidden size of an FFN.
int64_t ffn_width(const DecoderConfig& config);
bool has_window(const DecoderConfig& config, int64_t layer);
/// The members that the type of scaling reads, with their defaults; see RopeScalingOptions.
RopeScalingOptions normalized(const RopeScalingOptions& scaling, int64_t max_seq_len);
/// A complete configuration in another family, complete; none where that has no keys for it.
std::optional<DecoderConfig> in_family(const std::string& family, const DecoderConfig& config);

}  // namespace olm::nn
