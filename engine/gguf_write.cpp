// Writing GGUF files.
#include <algorithm>
#include <cstring>

#include <olm/engine/file.h>
#include <olm/engine/gguf_internal.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/visit.h>

namespace olm {

namespace {

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  append(out, uint64_t(text.size()));
  out += text;
}

template <class T>
std::string encoded(GgufKind kind, T value) {
  std::string out;
  append(out, kind);
  append(out, value);
  return out;
}

std::string array_head(GgufKind item, size_t count) {
  std::string out;
  append(out, GgufKind::array);
  append(out, item);
  append(out, uint64_t(count));
  return out;
}

template <class T>
std::string encoded_array(GgufKind item, const std::vector<T>& values) {
  std::string out = array_head(item, values.size());
  for (const T value : values) append(out, value);
  return out;
}

void pad(std::string& out) { out.resize(kernels::round_up(out.size(), gguf::kAlignment), '\0'); }

/// Values of a contiguous tensor of any float dtype, as f32.
void widen(const Tensor& x, int64_t begin, int64_t count, float* to) {
  const auto all = [&]<class T>(const T* from) {
    for (int64_t i = 0; i < count; ++i) to[i] = float(from[begin + i]);
  };
  switch (x.dtype()) {
    case f32:
      return all(x.data<float>());
    case bf16:
      return all(x.data<bfloat16_t>());
    case f16:
      return all(x.data<float16_t>());
    default:
      return all(x.data<double>());
  }
}

bool is_stored_as(DType dtype, GgufType type) {
  return (dtype == f32 && type == GgufType::f32) || (dtype == f16 && type == GgufType::f16) ||
         (dtype == bf16 && type == GgufType::bf16);
}

/// The bytes of a tensor in `type`, by pieces, and what pads them.
void write_tensor(FileWriter& file, const Tensor& x, GgufType type) {
  const GgufTypeInfo& info = info_of(type);
  const int64_t n = x.numel();
  if (is_stored_as(x.dtype(), type)) {
    file.write(x.data(), size_t(n) * size_of(x.dtype()));
  } else {
    constexpr int64_t kPiece = int64_t(1) << 20;  // a multiple of every block
    std::vector<float> wide(size_t(std::min(n, kPiece)));
    std::vector<std::byte> bytes(wide.size() / size_t(info.block_elements) * info.block_bytes);
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      const int64_t count = std::min(kPiece, n - begin);
      widen(x, begin, count, wide.data());
      quantize(type, wide.data(), count, bytes.data());
      file.write(bytes.data(), size_t(count / info.block_elements) * info.block_bytes);
    }
  }
  const size_t bytes = size_t(n / info.block_elements) * info.block_bytes;
  file.write(std::string(kernels::round_up(bytes, gguf::kAlignment) - bytes, '\0'));
}

}  // namespace

void GgufWriter::put(const std::string& key, std::string encoded) {
  const char* fault = gguf::fault_of(key, gguf::kMaxKey);
  require(!fault, "gguf: the key ", gguf::quoted(key), " ", fault ? fault : "");
  require(key != gguf::kAlignmentKey ||
              encoded == olm::encoded(GgufKind::u32, uint32_t(gguf::kAlignment)),
          "gguf: files are written with an alignment of ", gguf::kAlignment, ", \"", key,
          "\" says another");
  const auto at = std::find_if(values_.begin(), values_.end(),
                               [&](const auto& value) { return value.first == key; });
  if (at != values_.end())
    at->second = std::move(encoded);
  else
    values_.emplace_back(key, std::move(encoded));
}

void GgufWriter::set(const std::string& key, bool value) {
  put(key, encoded(GgufKind::boolean, uint8_t(value)));
}
void GgufWriter::set(const std::string& key, uint32_t value) {
  put(key, encoded(GgufKind::u32, value));
}
void GgufWriter::set(const std::string& key, uint64_t value) {
  put(key, encoded(GgufKind::u64, value));
}
void GgufWriter::set(const std::string& key, int32_t value) {
  put(key, encoded(GgufKind::i32, value));
}
void GgufWriter::set(const std::string& key, float value) {
  put(key, encoded(GgufKind::f32, value));
}

void GgufWriter::set(const std::string& key, std::string_view value) {
  std::string out;
  append(out, GgufKind::string);
  append_text(out, value);
  put(key, std::move(out));
}

void GgufWriter::set(const std::string& key, const std::vector<std::string>& values) {
  std::string out = array_head(GgufKind::string, values.size());
  for (const std::string& value : values) append_text(out, value);
  put(key, std::move(out));
}

void GgufWriter::set(const std::string& key, const std::vector<int32_t>& values) {
  put(key, encoded_array(GgufKind::i32, values));
}
void GgufWriter::set(const std::string& key, const std::vector<float>& values) {
  put(key, encoded_array(GgufKind::f32, values));
}
void GgufWriter::set(const std::string& key, const std::vector<bool>& values) {
  put(key, encoded_array(GgufKind::boolean, values));
}

void GgufWriter::set(const std::string& key, const GgufValue& value) {
  std::string out;
  if (value.kind_ == GgufKind::array) {
    out = array_head(value.item_, value.count_);
  } else {
    append(out, value.kind_);
    if (value.kind_ == GgufKind::string) append(out, uint64_t(value.bytes_.size()));
  }
  out.append(reinterpret_cast<const char*>(value.bytes_.data()), value.bytes_.size());
  put(key, std::move(out));
}

void GgufWriter::add(const std::string& name, GgufType type, const Shape& shape,
                     std::function<Tensor()> make) {
  const char* fault = gguf::fault_of(name, gguf::kMaxName);
  require(!fault, "gguf: the name ", gguf::quoted(name), " of a tensor ", fault ? fault : "");
  require(std::none_of(items_.begin(), items_.end(),
                       [&](const Item& item) { return item.name == name; }),
          "gguf: the tensor ", gguf::quoted(name), " comes twice");
  require(shape.rank() <= gguf::kMaxDims, "gguf: tensor ", gguf::quoted(name), " of shape ", shape,
          " has ", shape.rank(), " dimensions, at most ", gguf::kMaxDims, " are possible");
  const GgufTypeInfo& info = info_of(type);
  require(type == GgufType::f32 || type == GgufType::f16 || type == GgufType::bf16 ||
              type == GgufType::q8_0,
          "gguf: tensor ", gguf::quoted(name), " cannot be written as ", info.name,
          ", F32, F16, BF16 or Q8_0 was wanted");
  const int64_t row = shape.rank() ? shape.back() : 1;
  if (row % info.block_elements != 0) type = GgufType::f16;
  require(gguf::byte_size(info_of(type), shape).has_value(), "gguf: tensor ", gguf::quoted(name),
          " has the impossible shape ", shape);
  items_.push_back({name, type, shape, std::move(make)});
}

std::string GgufWriter::header() const {
  std::string out(gguf::kMagic);
  append(out, gguf::kVersion);
  append(out, uint64_t(items_.size()));
  append(out, uint64_t(values_.size()));
  for (const auto& [key, value] : values_) {
    append_text(out, key);
    out += value;
  }
  uint64_t begin = 0;
  for (const Item& item : items_) {
    append_text(out, item.name);
    append(out, uint32_t(item.shape.rank()));
    for (int i = item.shape.rank(); i-- > 0;) append(out, uint64_t(item.shape[i]));
    append(out, item.type);
    append(out, begin);
    begin += kernels::round_up(*gguf::byte_size(info_of(item.type), item.shape), gguf::kAlignment);
  }
  pad(out);
  return out;
}

void GgufWriter::write(const std::string& path) const {
  FileWriter file(path);
  file.write(header());
  for (const Item& item : items_) {
    const Tensor made = item.make();
    require(made.defined() && made.shape() == item.shape && is_float(made.dtype()) &&
                made.device() != meta,
            "gguf: tensor ", gguf::quoted(item.name), " was announced as ", item.shape,
            ", what came is ", made.defined() ? detail::concat(made.dtype(), made.shape()) : "none",
            made.defined() && made.device() == meta ? " on meta" : "");
    write_tensor(file, raw::contiguous(raw::to(made, cpu)), item.type);
  }
  file.commit();
}

}  // namespace olm
