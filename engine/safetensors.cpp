#include <algorithm>
#include <bit>
#include <cstring>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/safetensors_internal.h>

namespace olm {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace safetensors {
namespace {

constexpr FormatType kTypes[] = {
    {"F32", 4, f32}, {"BF16", 2, bf16},    {"F16", 2, f16}, {"F64", 8, f64},    {"I32", 4, i32},
    {"I64", 8, i64}, {"BOOL", 1, boolean}, {"U8", 1, {}},   {"I8", 1, {}},      {"U16", 2, {}},
    {"I16", 2, {}},  {"U32", 4, {}},       {"U64", 8, {}},  {"F8_E4M3", 1, {}}, {"F8_E5M2", 1, {}},
};

}  // namespace

const FormatType* find_type(std::string_view name) {
  for (const FormatType& type : kTypes)
    if (name == type.name) return &type;
  return nullptr;
}

const char* format_name(DType dtype) {
  for (const FormatType& type : kTypes)
    if (type.dtype == dtype) return type.name;
  fail("safetensors: ", dtype, " cannot be stored");
}

std::string text_of(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
  return text + "]";
}

size_t byte_size(const std::string& where, std::span<const int64_t> shape, size_t element) {
  uint64_t bytes = element;
  for (const int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, uint64_t(size), &bytes) || bytes >> 62)
      throw FileError(where, " has the impossible shape ", text_of(shape));
  return bytes;
}

}  // namespace safetensors

using namespace safetensors;

namespace {

/// The format's own limit: no model has a header near it.
constexpr uint64_t kMaxHeader = 100'000'000;

/// A type that is not in the table may have elements of any size from one bit up.
void check_size(const std::string& where, const SafetensorsEntry& e, uint64_t end) {
  const FormatType* type = find_type(e.dtype);
  const size_t whole = byte_size(where, e.shape, type ? type->size : 1);
  const size_t least = type ? whole : (whole + 7) / 8;
  const bool exact = type || whole == 0;
  if (end >= e.begin && (exact ? e.bytes == least : e.bytes >= least)) return;
  throw FileError(where, " of shape ", text_of(e.shape), " and dtype ", e.dtype, " needs ",
                  exact ? "" : "at least ", least, " bytes, its data offsets are ", e.begin,
                  " and ", end);
}

SafetensorsEntry read_entry(const std::string& file, const std::string& name, const Json& json) {
  const std::string where = detail::concat(file, ": tensor \"", name, "\"");
  SafetensorsEntry entry{.name = name, .dtype = json.at("dtype").as_string()};
  for (const Json& size : json.at("shape").items()) entry.shape.push_back(int64_t(size.as_uint()));
  const Json& offsets = json.at("data_offsets");
  if (offsets.size() != 2) throw FileError(where, " has ", offsets.size(), " data offsets, not 2");
  entry.begin = offsets.at(size_t(0)).as_uint();
  const uint64_t end = offsets.at(1).as_uint();
  entry.bytes = end - entry.begin;
  check_size(where, entry, end);
  return entry;
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  auto file = MappedFile::open(path);
  const std::span<std::byte> all(file->data(), file->size());
  const MappedFile* map = file.get();
  SafetensorsFile result(path, std::move(file), all);
  result.map_ = map;
  return result;
}

SafetensorsFile SafetensorsFile::parse(std::string_view bytes, const std::string& what) {
  // Words, so that the data is aligned as in a mapped file.
  auto copy = std::make_shared<std::vector<uint64_t>>(bytes.size() / 8 + 1);
  std::memcpy(copy->data(), bytes.data(), bytes.size());
  const std::span<std::byte> all(reinterpret_cast<std::byte*>(copy->data()), bytes.size());
  return SafetensorsFile(what, std::move(copy), all);
}

SafetensorsFile::SafetensorsFile(std::string path, std::shared_ptr<const void> owner,
                                 std::span<std::byte> all)
    : path_(std::move(path)), owner_(std::move(owner)) {
  uint64_t length = 0;
  if (all.size() < sizeof length)
    throw FileError(path_, ": no safetensors file: ", all.size(), " bytes, at least 8 were wanted");
  std::memcpy(&length, all.data(), sizeof length);
  if (length > kMaxHeader)
    throw FileError(path_, ": no safetensors file: its first 8 bytes announce a header of ", length,
                    " bytes, at most ", kMaxHeader, " are possible");
  if (length > all.size() - sizeof length)
    throw FileError(path_, ": truncated: a header of ", length,
                    " bytes is announced, the file has ", all.size(), " bytes");
  data_ = all.subspan(sizeof length + length);
  read_header({reinterpret_cast<const char*>(all.data()) + sizeof length, size_t(length)});
  check_layout();
}

void SafetensorsFile::read_header(std::string_view header) try {
  const Json json = Json::parse(header, path_ + ": header");
  for (const auto& [name, value] : json.members()) {
    if (name == "__metadata__") {
      if (value.is_null()) continue;  // written by some for "none"
      for (const auto& [key, text] : value.members()) metadata_.emplace(key, text.as_string());
    } else {
      entries_.push_back(read_entry(path_, name, value));
    }
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  for (const SafetensorsEntry& entry : entries_) {
    index_.emplace(entry.name, names_.size());
    names_.push_back(entry.name);
  }
} catch (const FileError&) {
  throw;
} catch (const Error& e) {
  const std::string reason = e.what();
  throw FileError(reason.starts_with(path_) ? "" : path_ + ": header: ", reason);
}

void SafetensorsFile::check_layout() const {
  size_t end = 0;
  for (const SafetensorsEntry& entry : entries_) {
    if (entry.begin > data_.size() || entry.bytes > data_.size() - entry.begin)
      throw FileError(path_, ": truncated: tensor \"", entry.name, "\" ends at byte ",
                      entry.begin + entry.bytes, " of the data, which has ", data_.size());
    if (entry.begin != end)
      throw FileError(path_, ": tensor \"", entry.name, "\" begins at byte ", entry.begin,
                      " of the data, the one before it ends at ", end);
    end = entry.begin + entry.bytes;
  }
  if (end != data_.size())
    throw FileError(path_, ": ", data_.size() - end, " bytes after the last tensor");
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto at = index_.find(name);
  if (at == index_.end()) throw FileError(path_, ": holds no tensor \"", name, "\"");
  return entries_[at->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  return data_.subspan(e.begin, e.bytes);
}

void SafetensorsFile::release(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  if (map_) map_->release(size_t(data_.data() - map_->data()) + e.begin, e.bytes);
}

std::string SafetensorsEntry::shape_text() const { return text_of(shape); }

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  const FormatType* type = find_type(e.dtype);
  if (!type || !type->dtype)
    throw FileError(path_, ": tensor \"", name, "\" has dtype ", e.dtype,
                    ", a tensor of F32, BF16, F16, F64, I32, I64 or BOOL was wanted");
  if (e.shape.size() > size_t(kMaxRank))
    throw FileError(path_, ": tensor \"", name, "\" has ", e.shape.size(), " dimensions, at most ",
                    kMaxRank, " are possible");
  const Shape shape(e.shape);
  std::byte* data = data_.data() + e.begin;
  if (type->dtype == boolean &&
      std::any_of(data, data + e.bytes, [](std::byte b) { return b > std::byte{1}; }))
    throw FileError(path_, ": tensor \"", name, "\" of dtype BOOL holds bytes other than 0 and 1");
  if (reinterpret_cast<uintptr_t>(data) % type->size != 0) {
    Tensor copy = empty(shape, {.dtype = *type->dtype});
    std::memcpy(copy.mutable_data(), data, e.bytes);
    return copy;
  }
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(data, e.bytes, cpu, [owner = owner_] {});
  impl->shape = shape;
  impl->strides = contiguous_strides(shape);
  impl->dtype = *type->dtype;
  return Tensor(std::move(impl));
}

}  // namespace olm
