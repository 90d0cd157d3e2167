#include <olm/engine/safetensors.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <tuple>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>

namespace olm {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace {

/// The format's own limit: no model has a header near it.
constexpr uint64_t kMaxHeader = 100'000'000;

struct FormatType {
  const char* name;
  size_t size;
  std::optional<DType> dtype;
};
constexpr FormatType kTypes[] = {
    {"F32", 4, f32}, {"BF16", 2, bf16},    {"F16", 2, f16}, {"F64", 8, f64},    {"I32", 4, i32},
    {"I64", 8, i64}, {"BOOL", 1, boolean}, {"U8", 1, {}},   {"I8", 1, {}},      {"U16", 2, {}},
    {"I16", 2, {}},  {"U32", 4, {}},       {"U64", 8, {}},  {"F8_E4M3", 1, {}}, {"F8_E5M2", 1, {}},
};

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

/// `element` times all sizes, or FileError where that does not fit in 62 bits.
size_t byte_size(const std::string& where, std::span<const int64_t> shape, size_t element) {
  uint64_t bytes = element;
  for (const int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, uint64_t(size), &bytes) || bytes >> 62)
      throw FileError(where, " has the impossible shape ", text_of(shape));
  return bytes;
}

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

/// A tensor to be written.
struct Described {
  std::string_view name, dtype;
  const Shape& shape;
  size_t bytes;
};

std::string make_header(const std::vector<Described>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json& texts = header["__metadata__"];
    for (const auto& [key, value] : metadata) texts.append(key, value);
  }
  uint64_t at = 0;
  for (const Described& t : tensors) {
    Json entry;
    entry["dtype"] = t.dtype;
    entry["shape"] = Json(std::vector<int64_t>(t.shape.begin(), t.shape.end()));
    entry["data_offsets"] = Json(std::vector<uint64_t>{at, at + t.bytes});
    header.append(std::string(t.name), std::move(entry));
    at += t.bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

/// The file with all but the tensors' data.
void write_header(FileWriter& file, const std::vector<Described>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::map<std::string_view, int> seen;
  for (const Described& t : tensors)
    require(t.name != "__metadata__" && ++seen[t.name] == 1, "write_safetensors: the name \"",
            t.name, "\" comes twice or is reserved");
  const std::string header = make_header(tensors, metadata);
  const uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
}

size_t bytes_of(const SafetensorsItem& item) {
  return byte_size(item.name, item.shape.span(), size_of(item.dtype));
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

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<Tensor> kept;  // contiguous copies live until the file is written
  std::vector<SafetensorsBytes> items;
  for (const auto& [name, tensor] : tensors) {
    require(tensor.device() != meta, "write_safetensors: \"", name, "\" is on meta, without data");
    kept.push_back(raw::contiguous(raw::to(tensor, cpu)));
    const Tensor& t = kept.back();
    const size_t bytes = size_t(t.numel()) * size_of(t.dtype());
    items.push_back({name,
                     format_name(t.dtype()),
                     t.shape(),
                     {static_cast<const std::byte*>(t.data()), bytes}});
  }
  write_safetensors(path, std::move(items), metadata);
}

void write_safetensors(const std::string& path, std::vector<SafetensorsBytes> tensors,
                       const std::map<std::string, std::string>& metadata) {
  for (const SafetensorsBytes& t : tensors) {
    const FormatType* type = find_type(t.dtype);
    require(type != nullptr, "write_safetensors: unknown dtype ", t.dtype, " of \"", t.name, "\"");
    require(t.bytes.size() == byte_size(t.name, t.shape.span(), type->size),
            "write_safetensors: \"", t.name, "\" of shape ", t.shape, " and dtype ", t.dtype,
            " came with ", t.bytes.size(), " bytes");
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return find_type(a.dtype)->size > find_type(b.dtype)->size;
  });
  std::vector<Described> described;
  for (const SafetensorsBytes& t : tensors)
    described.push_back({t.name, t.dtype, t.shape, t.bytes.size()});
  FileWriter file(path);
  write_header(file, described, metadata);
  for (const SafetensorsBytes& t : tensors) file.write(t.bytes.data(), t.bytes.size());
  file.commit();
}

void write_safetensors(const std::string& path, std::vector<SafetensorsItem> items,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
    const auto rank = [](const SafetensorsItem& t) {  // BF16 before F16
      return std::tuple(-int(size_of(t.dtype)), std::string_view(format_name(t.dtype)),
                        std::string_view(t.name));
    };
    return rank(a) < rank(b);
  });
  std::vector<Described> described;
  for (const SafetensorsItem& item : items)
    described.push_back({item.name, format_name(item.dtype), item.shape, bytes_of(item)});
  FileWriter file(path);
  write_header(file, described, metadata);
  for (const SafetensorsItem& item : items) {
    const Tensor made = raw::contiguous(raw::to(item.make(), cpu));
    require(made.shape() == item.shape && made.dtype() == item.dtype, "write_safetensors: \"",
            item.name, "\" was to be ", item.dtype, " ", item.shape, ", got ", made.dtype(), " ",
            made.shape());
    file.write(made.data(), bytes_of(item));
    if (item.done) item.done();
  }
  file.commit();
}

}  // namespace olm
