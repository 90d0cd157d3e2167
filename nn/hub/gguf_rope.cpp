// RoPE's scaling in GGUF files: keys, and tensors of what each frequency is divided by.
#include <algorithm>
#include <cmath>
#include <numbers>

#include <olm/nn/embeddings/rotary_internal.h>
#include <olm/nn/hub/gguf_internal.h>

namespace olm::nn::hub {

namespace {

constexpr const char* kFreqs = "rope_freqs.weight";
constexpr const char* kLong = "rope_factors_long.weight";
constexpr const char* kShort = "rope_factors_short.weight";

using Scaling = RopeScalingOptions;

Rotation rotation_of(const DecoderConfig& c, const Scaling& scaling) {
  return {.dim = rotated_dims_of(c),
          .base = c.rope_theta.value_or(10000),
          .max_seq_len = c.max_seq_len,
          .scaling = scaling};
}

/// Yarn's factor of cosines and sines where none is given.
double yarn_factor(double s) { return s > 1 ? 0.1 * std::log(s) + 1 : 1; }

/// What llama3 divides each frequency by, in the arithmetic of the files' makers.
std::vector<float> llama3_divisors(const DecoderConfig& c, const Scaling& o) {
  const int64_t dim = rotated_dims_of(c);
  const auto length = float(o.original_max_seq_len.value_or(c.max_seq_len));
  const auto s = float(o.scaling_factor.value_or(1));
  const auto low = float(o.low_freq_factor.value_or(1));
  const auto high = float(o.high_freq_factor.value_or(4));
  std::vector<float> result;
  for (int64_t j = 0; j < dim / 2; ++j) {
    const float frequency = 1 / std::pow(float(*c.rope_theta), float(2 * j) / float(dim));
    const float wavelength = float(2 * std::numbers::pi) / frequency;
    const float own = (length / wavelength - low) / (high - low);
    if (wavelength < length / high)
      result.push_back(1);
    else if (wavelength > length / low)
      result.push_back(s);
    else
      result.push_back(1 / ((1 - own) / s + own));
  }
  return result;
}

bool are_close(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i] - b[i]) > 4e-6f * std::abs(b[i])) return false;
  return a.size() == b.size();
}

/// The llama3 scaling that gives these divisors: Llama 3.1's, Llama 3.2's, or one with usual
/// numbers. Empty where there is none.
std::optional<Scaling> llama3_of(const DecoderConfig& c, const std::vector<float>& divisors) {
  const float most = *std::max_element(divisors.begin(), divisors.end());
  std::vector<double> factors = {8, 32, double(decimal_of(most)), 2, 4, 16, 64};
  std::vector<int64_t> lengths = {8192};
  for (int64_t length = 1 << 20; length >= 8; length /= 2) lengths.push_back(length);
  for (const double s : factors)
    if (c.max_seq_len / s >= 1) lengths.push_back(int64_t(double(c.max_seq_len) / s));
  for (const double high : {4.0, 2.0, 8.0, 16.0, 32.0})
    for (const double s : factors)
      for (const int64_t length : lengths) {
        const Scaling guess{.scaling_type = "llama3",
                            .scaling_factor = s,
                            .original_max_seq_len = length,
                            .low_freq_factor = 1,
                            .high_freq_factor = high};
        if (are_close(llama3_divisors(c, guess), divisors)) return guess;
      }
  return {};
}

class ScalingReader {
 public:
  ScalingReader(const GgufFile& file, const std::string& architecture, const DecoderConfig& c)
      : file_(file), prefix_(architecture + ".rope."), config_(c) {}
  Scaling read(bool factors) const;

 private:
  std::optional<double> find(const char* key) const {
    const GgufValue* value = file_.find(prefix_ + key);
    if (!value) return {};
    return decimal_of(value->as_double());
  }
  std::optional<int64_t> original() const {
    const GgufValue* value = file_.find(prefix_ + "scaling.original_context_length");
    if (!value) return {};
    return value->as_int();
  }
  double factor() const;
  std::vector<float> divisors(const char* tensor) const;
  Scaling by_divisors() const;
  Scaling longrope() const;
  Scaling yarn() const;

  const GgufFile& file_;
  const std::string prefix_;
  const DecoderConfig& config_;
};

double ScalingReader::factor() const {
  const double s = find("scaling.factor").value_or(find("scale_linear").value_or(1));
  return s == 0 ? 1 : s;
}

std::vector<float> ScalingReader::divisors(const char* tensor) const {
  const GgufEntry& entry = file_.entry(tensor);
  const int64_t pairs = rotated_dims_of(config_) / 2;
  if (entry.type != GgufType::f32 || entry.shape != Shape{pairs})
    throw FileError(file_.path(), ": ", tensor, " is ", gguf_type_name(uint32_t(entry.type)), " ",
                    entry.shape, "; F32 ", Shape{pairs}, " was wanted");
  const std::vector<float> values = to_host<float>(file_.tensor(tensor));
  for (const float value : values)
    if (!(value > 0) || !std::isfinite(value))
      throw FileError(file_.path(), ": ", tensor, " holds ", value,
                      "; numbers above 0 were wanted");
  return values;
}

std::vector<double> decimals(const std::vector<float>& values) {
  std::vector<double> result;
  for (const float value : values) result.push_back(decimal_of(value));
  return result;
}

/// llama3, where it gives these divisors; else the same numbers as longrope of any length.
Scaling ScalingReader::by_divisors() const {
  const std::vector<float> values = divisors(kFreqs);
  if (std::all_of(values.begin(), values.end(), [](float v) { return v == 1; })) return {};
  if (const std::optional<Scaling> found = llama3_of(config_, values)) return *found;
  return {.scaling_type = "longrope",
          .original_max_seq_len = config_.max_seq_len,
          .short_factor = decimals(values),
          .long_factor = decimals(values),
          .attention_factor = 1};
}

Scaling ScalingReader::longrope() const {
  for (const char* name : {kLong, kShort})
    if (!file_.contains(name))
      throw FileError(file_.path(), ": no tensor ", name, ", which longrope has");
  Scaling result{.scaling_type = "longrope",
                 .original_max_seq_len = original().value_or(config_.max_seq_len),
                 .short_factor = decimals(divisors(kShort)),
                 .long_factor = decimals(divisors(kLong))};
  const double attention = find("scaling.attn_factor").value_or(1);
  if (float(rotation_of(config_, result).attention_factor()) != float(attention))
    result.attention_factor = attention;
  return result;
}

Scaling ScalingReader::yarn() const {
  const double s = factor();
  Scaling result{.scaling_type = "yarn",
                 .scaling_factor = s,
                 .original_max_seq_len = original().value_or(config_.max_seq_len)};
  if (find("scaling.yarn_ext_factor").value_or(1) != 1)
    throw FileError(file_.path(), ": ", prefix_, "scaling.yarn_ext_factor is ",
                    *find("scaling.yarn_ext_factor"), "; 1 was wanted");
  if (const auto beta = find("scaling.yarn_beta_fast")) result.yarn_beta = beta;
  if (const auto beta = find("scaling.yarn_beta_slow")) result.yarn_alpha = beta;
  if (const auto attention = find("scaling.yarn_attn_factor"))
    result.attention_factor = attention;
  else if (const auto times = find("scaling.attn_factor"))
    result.attention_factor = *times * yarn_factor(s);
  return result;
}

Scaling ScalingReader::read(bool factors) const {
  const GgufValue* named = file_.find(prefix_ + "scaling.type");
  const std::string type(named ? named->as_string() : "linear");
  if (factors && file_.contains(kFreqs)) return by_divisors();
  if (factors && (file_.contains(kLong) || file_.contains(kShort))) return longrope();
  if (type == "yarn") return yarn();
  if (type == "linear" && factor() != 1)
    return {.scaling_type = "linear", .scaling_factor = factor()};
  if (type == "linear" || type == "none") return {};
  throw FileError(file_.path(), ": ", prefix_, "scaling.type is \"", type,
                  "\"; none, linear, yarn or, with its tensors, longrope was wanted");
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

std::vector<RopeFactors> write_longrope(const DecoderConfig& c, const std::string& prefix,
                                        bool freqs, GgufWriter& to) {
  const Rotation rotation = rotation_of(c, c.rope_scaling);
  if (freqs && c.rope_scaling.short_factor == c.rope_scaling.long_factor &&
      rotation.attention_factor() == 1)
    return {{kFreqs, floats(c.rope_scaling.long_factor)}};
  to.set(prefix + "type", "longrope");
  to.set(prefix + "original_context_length", uint32_t(rotation.original()));
  to.set(prefix + "attn_factor", float(rotation.attention_factor()));
  return {{kLong, floats(c.rope_scaling.long_factor)},
          {kShort, floats(c.rope_scaling.short_factor)}};
}

void write_yarn(const DecoderConfig& c, const std::string& prefix, GgufWriter& to) {
  const Scaling& o = c.rope_scaling;
  const Rotation rotation = rotation_of(c, o);
  require(o.truncate.value_or(true), "GGUF has no place for rope_scaling's truncate false");
  to.set(prefix + "type", "yarn");
  to.set(prefix + "factor", float(rotation.stretch()));
  to.set(prefix + "original_context_length", uint32_t(rotation.original()));
  if (o.yarn_beta) to.set(prefix + "yarn_beta_fast", float(*o.yarn_beta));
  if (o.yarn_alpha) to.set(prefix + "yarn_beta_slow", float(*o.yarn_alpha));
  const double own = rotation.attention_factor(), usual = yarn_factor(rotation.stretch());
  if (own == usual) return;
  // One name is what converters write, the other what llama.cpp multiplies its own factor by.
  to.set(prefix + "yarn_attn_factor", float(own));
  to.set(prefix + "attn_factor", float(own / usual));
}

}  // namespace

const std::vector<std::string>& rope_scaling_keys() {
  static const std::vector<std::string> keys = {"rope.scaling.type",
                                                "rope.scaling.factor",
                                                "rope.scale_linear",
                                                "rope.scaling.original_context_length",
                                                "rope.scaling.attn_factor",
                                                "rope.scaling.finetuned",
                                                "rope.scaling.yarn_attn_factor",
                                                "rope.scaling.yarn_ext_factor",
                                                "rope.scaling.yarn_beta_fast",
                                                "rope.scaling.yarn_beta_slow"};
  return keys;
}

RopeScalingOptions rope_scaling_from_gguf(const GgufFile& file, const std::string& architecture,
                                          const DecoderConfig& config) {
  const bool factors = architecture_of(architecture, file.path()).factors;
  return ScalingReader(file, architecture, config).read(factors);
}

std::vector<RopeFactors> rope_scaling_to_gguf(const DecoderConfig& config,
                                              const std::string& architecture, GgufWriter& to) {
  const Scaling& o = config.rope_scaling;
  const std::string type = o.scaling_type.value_or("none"),
                    prefix = architecture + ".rope.scaling.";
  const bool factors = architecture_of(architecture, architecture).factors;
  if (type == "none") return {};
  const bool freqs = architecture == "llama";
  if (type == "llama3" && freqs) return {{kFreqs, llama3_divisors(config, o)}};
  if (type == "longrope" && factors) return write_longrope(config, prefix, freqs, to);
  if (type == "yarn" && architecture != "gemma3") {
    write_yarn(config, prefix, to);
    return {};
  }
  require(type == "linear", "GGUF's architecture ", architecture,
          " has no place for rope_scaling's ", "scaling_type ", type);
  to.set(prefix + "type", "linear");
  to.set(prefix + "factor", float(o.scaling_factor.value_or(1)));
  return {};
}

}  // namespace olm::nn::hub
