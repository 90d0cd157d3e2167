#include <algorithm>

#include <olm/nn/embeddings.h>

namespace olm::nn {

namespace {

const std::vector<RotaryKind>& rows() {
  static const std::vector<RotaryKind> table{
      {.name = "Llama3RotaryPositionalEmbedding",
       .defaults = {.max_seq_len = 262144,
                    .scaling = {.scaling_type = "llama3",
                                .scaling_factor = 2,
                                .original_max_seq_len = 131072,
                                .high_freq_factor = 32}},
       .fields = {"head_dim"}},
      {.name = "PartialRotaryPositionalEmbedding",
       .defaults = {.rotary_percentage = 0.5, .max_seq_len = 2048},
       .fields = {"head_dim", "rotary_percentage", "base", "max_seq_len"}},
      {.name = "PartialScaledRotaryPositionalEmbedding",
       .defaults = {.rotary_percentage = 0.5,
                    .max_seq_len = 2048,
                    .scaling = {.scaling_type = "linear"}},
       .fields = {"head_dim", "rotary_percentage"}},
      {.name = "RotaryPositionalEmbedding", .fields = {"head_dim", "max_seq_len", "base"}},
      {.name = "ScaledRotaryPositionalEmbedding",
       .defaults = {.max_seq_len = 2048, .scaling = {.scaling_type = "linear"}},
       .fields = {"head_dim"}},
  };
  return table;
}

/// What a layer of `kind` is where options say nothing.
RotaryOptions defaults_of(const RotaryKind& kind) {
  const RotaryOptions common{.rotary_percentage = 1,
                             .base = 10000,
                             .scaling = {.scaling_type = "none"},
                             .pairing = "interleaved"};
  return over(common, kind.defaults, kind.name);
}

RotaryOptions completed(const RotaryOptions& given, const RotaryKind& kind) {
  RotaryOptions o = given;
  require(o.head_dim > 0, kind.name, ": wanted head_dim above 0, got ", o.head_dim);
  o = over(defaults_of(kind), given, kind.name);
  require(o.max_seq_len.has_value(), kind.name, ": wants a max_seq_len");
  return o;
}

RotaryAngles angles_of(const RotaryKind& kind, const RotaryOptions& o) {
  const double share = *o.rotary_percentage;
  const int64_t rotated =
      share == 1 ? o.head_dim
                 : rotated_dims(kind.name.c_str(), "rotary_percentage", o.head_dim, share);
  return RotaryAngles(rotated, *o.base, *o.max_seq_len, o.scaling, rope_pairing(*o.pairing));
}

}  // namespace

const std::vector<RotaryKind>& rotary_kinds() { return rows(); }

RotaryModule::RotaryModule(const RotaryOptions& o, const RotaryKind& kind)
    : Layer(completed(o, kind)), kind_(kind), angles_(angles_of(kind, options)) {}

void RotaryModule::check(const Tensor& x) const {
  require(x.rank() == 4 && x.size(3) == options.head_dim, kind_.name, ": wanted x [B,T,H,",
          options.head_dim, "], got ", x.shape());
}

Tensor RotaryModule::forward(const Tensor& x, Context& ctx) {
  check(x);
  return angles_.rotate(kind_.name.c_str(), x, ctx);
}

std::pair<Tensor, Tensor> RotaryModule::rotate(const Tensor& q, const Tensor& k, Context& ctx) {
  check(q);
  check(k);
  return angles_.rotate(kind_.name.c_str(), q, k, ctx);
}

void RotaryModule::visit_options(FieldVisitor& v) {
  RotaryOptions own = options;
  ChangedFields changed(v, to_json(own), to_json(defaults_of(kind_)), kind_.fields);
  own.fields(changed);
}

void RotaryModule::visit_default_options(FieldVisitor& v) { defaults_of(kind_).fields(v); }

Ref<RotaryModule> Rotary(const RotaryKind& kind, const RotaryOptions& options) {
  return make<RotaryModule>(options, kind);
}
Ref<RotaryModule> Rotary(const std::string& name, const RotaryOptions& options) {
  std::string known;
  for (const RotaryKind& kind : rows()) {
    if (kind.name == name) return Rotary(kind, options);
    known += (known.empty() ? "" : ", ") + kind.name;
  }
  fail("unknown rotary position embedding \"", name, "\"; known are ", known);
}

Ref<RotaryModule> RotaryPositionalEmbedding(const RotaryOptions& options) {
  return Rotary("RotaryPositionalEmbedding", options);
}
Ref<RotaryModule> RotaryPositionalEmbedding(int64_t head_dim, int64_t max_seq_len, double base) {
  return RotaryPositionalEmbedding(
      {.head_dim = head_dim, .max_seq_len = max_seq_len, .base = base});
}

Ref<RotaryModule> PartialRotaryPositionalEmbedding(const RotaryOptions& options) {
  return Rotary("PartialRotaryPositionalEmbedding", options);
}
Ref<RotaryModule> PartialRotaryPositionalEmbedding(int64_t head_dim, RotaryOptions options) {
  options.head_dim = head_dim;
  return PartialRotaryPositionalEmbedding(options);
}

Ref<RotaryModule> ScaledRotaryPositionalEmbedding(const RotaryOptions& options) {
  return Rotary("ScaledRotaryPositionalEmbedding", options);
}
Ref<RotaryModule> ScaledRotaryPositionalEmbedding(int64_t head_dim, int64_t max_seq_len,
                                                  double base, const RopeScalingOptions& scaling) {
  return ScaledRotaryPositionalEmbedding(
      {.head_dim = head_dim, .max_seq_len = max_seq_len, .base = base, .scaling = scaling});
}

Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(const RotaryOptions& options) {
  return Rotary("PartialScaledRotaryPositionalEmbedding", options);
}
Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(int64_t head_dim, double rotary_percentage,
                                                         int64_t max_seq_len, double base,
                                                         const RopeScalingOptions& scaling) {
  return PartialScaledRotaryPositionalEmbedding({.head_dim = head_dim,
                                                 .rotary_percentage = rotary_percentage,
                                                 .max_seq_len = max_seq_len,
                                                 .base = base,
                                                 .scaling = scaling});
}

Ref<RotaryModule> Llama3RotaryPositionalEmbedding(const RotaryOptions& options) {
  return Rotary("Llama3RotaryPositionalEmbedding", options);
}
Ref<RotaryModule> Llama3RotaryPositionalEmbedding(int64_t head_dim, RotaryOptions options) {
  options.head_dim = head_dim;
  return Llama3RotaryPositionalEmbedding(options);
}

}  // namespace olm::nn
