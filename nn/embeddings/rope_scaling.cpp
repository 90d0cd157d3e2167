// The types of RopeScalingOptions.
#include <algorithm>
#include <cmath>
#include <numbers>

#include <olm/nn/embeddings/rotary_internal.h>

namespace olm::nn {

namespace {

/// base^(-2j/dim)
std::vector<float> plain(int64_t dim, double base) {
  std::vector<float> result;
  for (int64_t j = 0; j < dim / 2; ++j)
    result.push_back(float(1 / float(std::pow(base, float(2 * j) / float(dim)))));
  return result;
}

/// The exponent that makes the slowest pair's frequency fall by what the base grows by. One pair
/// alone is rotated by its position whatever the base is.
double ntk_exponent(int64_t dim) { return dim == 2 ? 0 : double(dim) / double(dim - 2); }

/// Multiplies each frequency by a function of it.
template <class F>
std::vector<float> each(std::vector<float> frequencies, F f) {
  for (float& frequency : frequencies) frequency = f(frequency);
  return frequencies;
}

std::vector<float> linear(const Rotation& r, int64_t) {
  return each(plain(r.dim, r.base), [s = float(r.factor())](float f) { return f / s; });
}

std::vector<float> ntk(const Rotation& r, int64_t) {
  return plain(r.dim, r.base * std::pow(r.factor(), ntk_exponent(r.dim)));
}

std::vector<float> dynamic_ntk(const Rotation& r, int64_t length) {
  const double ratio = double(std::max(length, r.original())) / double(r.original());
  const double growth = r.factor() * ratio - (r.factor() - 1);
  return plain(r.dim, r.base * std::pow(growth, ntk_exponent(r.dim)));
}

/// The pair, as a real number, that makes `rotations` full ones in the trained positions.
double pair_of(const Rotation& r, double rotations) {
  const double wavelengths = double(r.original()) / (rotations * 2 * std::numbers::pi);
  return double(r.dim) * std::log(wavelengths) / (2 * std::log(r.base));
}

std::vector<float> yarn(const Rotation& r, int64_t) {
  double low = pair_of(r, r.scaling.yarn_beta.value_or(32));
  double high = pair_of(r, r.scaling.yarn_alpha.value_or(1));
  if (r.scaling.truncate.value_or(true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, double(r.dim - 1));
  if (low == high) high += 0.001;
  std::vector<float> result;
  for (int64_t j = 0; j < r.dim / 2; ++j) {
    const auto power = float(std::pow(r.base, float(2 * j) / float(r.dim)));
    const auto ramp = (float(j) - float(low)) / float(high - low);
    const float own = 1 - std::clamp(ramp, 0.0f, 1.0f);
    result.push_back(1 / (float(r.stretch()) * power) * (1 - own) + 1 / power * own);
  }
  return result;
}

std::vector<float> llama3(const Rotation& r, int64_t) {
  const auto length = float(r.original()), s = float(r.factor());
  const auto low = float(r.scaling.low_freq_factor.value_or(1));
  const auto high = float(r.scaling.high_freq_factor.value_or(4));
  return each(plain(r.dim, r.base), [=](float f) {
    const float wavelength = float(2 * std::numbers::pi) / f;
    if (wavelength < length / high) return f;
    if (wavelength > length / low) return f / s;
    const float own = (length / wavelength - low) / (high - low);
    return (1 - own) * f / s + own * f;
  });
}

std::vector<float> longrope(const Rotation& r, int64_t length) {
  const auto& factors = length > r.original() ? r.scaling.long_factor : r.scaling.short_factor;
  std::vector<float> result;
  for (int64_t j = 0; j < r.dim / 2; ++j) {
    const auto power = float(std::pow(r.base, float(2 * j) / float(r.dim)));
    result.push_back(1 / (float(factors[size_t(j)]) * power));
  }
  return result;
}

struct ScalingType {
  const char* name;
  std::vector<float> (*frequencies)(const Rotation&, int64_t length);
};
constexpr ScalingType kTypes[] = {
    {"linear", linear}, {"ntk", ntk},       {"dynamic_ntk", dynamic_ntk},
    {"yarn", yarn},     {"llama3", llama3}, {"longrope", longrope},
};

/// The range of f32 within which xpos keeps queries and keys: e^±kMaxDecay.
constexpr double kMaxDecay = 80;

double mscale(double s, double a) { return s > 1 ? 0.1 * a * std::log(s) + 1 : 1; }

}  // namespace

void Rotation::check() const {
  require(dim > 0 && dim % 2 == 0, "RoPE: wanted an even number of dimensions to rotate, got ",
          dim);
  require(max_seq_len > 0, "RoPE: wanted max_seq_len above 0, got ", max_seq_len);
  require(base > 0, "RoPE: wanted a base above 0, got ", base);
  check_fields(scaling, "RoPE");
  const RopeScalingOptions& o = scaling;
  require(!(is("none") || is("xpos")) || factor() == 1, "RoPE: a scaling_factor, ", factor(),
          ", goes with a scaling_type other than none and xpos");
  require(!is("yarn") || base != 1, "RoPE: yarn wants a base other than 1");
  const double low = o.low_freq_factor.value_or(1), high = o.high_freq_factor.value_or(4);
  require(!is("llama3") || high > low, "RoPE: llama3 wants high_freq_factor above low_freq_factor ",
          low, ", got ", high);
  for (const auto& [name, list] :
       {std::pair{"short_factor", &o.short_factor}, std::pair{"long_factor", &o.long_factor}})
    require(!is("longrope") || int64_t(list->size()) == dim / 2, "RoPE: longrope wants a ", name,
            " of ", dim / 2, " numbers, got ", list->size());
  require(!is("longrope") || original() > 1,
          "RoPE: longrope wants an original_max_seq_len above 1");
  if (is("xpos"))
    require(std::abs(std::log(decay(0, 0))) <= kMaxDecay, "RoPE: an xpos_scale_base of ",
            o.xpos_scale_base.value_or(double(max_seq_len)), " is too small for max_seq_len ",
            max_seq_len, ": keys and queries would leave the range of f32");
}

int64_t Rotation::variant(int64_t length) const {
  if (length <= original()) return 0;
  return is("dynamic_ntk") ? length : is("longrope") ? 1 : 0;
}

std::vector<float> Rotation::frequencies(int64_t length) const {
  for (const ScalingType& type : kTypes)
    if (is(type.name)) return type.frequencies(*this, length);
  return plain(dim, base);
}

double Rotation::attention_factor() const {
  const RopeScalingOptions& o = scaling;
  if (!is("yarn") && !is("longrope")) return 1;
  if (o.attention_factor) return *o.attention_factor;
  const double s = stretch();
  if (is("longrope")) return s > 1 ? std::sqrt(1 + std::log(s) / std::log(original())) : 1;
  if (o.mscale && o.mscale_all_dim) return mscale(s, *o.mscale) / mscale(s, *o.mscale_all_dim);
  return mscale(s, 1);
}

double Rotation::latent_score_factor() const {
  if (!is("yarn") || !scaling.mscale_all_dim) return 1;
  return std::pow(mscale(stretch(), *scaling.mscale_all_dim), 2);
}

double Rotation::decay(int64_t position, int64_t pair) const {
  if (!is("xpos")) return 1;
  const double z = (2 * double(pair) + 0.4 * double(dim)) / (1.4 * double(dim));
  const double scale_base = scaling.xpos_scale_base.value_or(double(max_seq_len));
  return std::pow(z, double(position - max_seq_len / 2) / scale_base);
}

RopePairing rope_pairing(const std::string& name) {
  check_value("RoPE: pairing", rope_pairing_info(), name);
  return name == "halves" ? RopePairing::halves : RopePairing::interleaved;
}

}  // namespace olm::nn
