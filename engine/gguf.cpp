// Reading GGUF files.
#include <olm/engine/gguf.h>

#include <bit>
#include <cstring>
#include <map>

#include <olm/engine/file.h>
#include <olm/engine/gguf_internal.h>
#include <olm/kernels/base/math.h>

namespace olm {

using gguf::quoted;

/// Keys and names in the maps are views of the file's bytes.
struct GgufFile::Held {
  std::string path;
  std::shared_ptr<const void> owner;         // keeps all bytes alive
  std::shared_ptr<const MappedFile> mapped;  // null for bytes in memory
  std::span<std::byte> data;
  uint32_t version = 0;
  std::vector<std::string> keys;
  std::vector<GgufValue> values;
  std::map<std::string_view, size_t> value_index;
  std::vector<GgufEntry> entries;
  std::map<std::string_view, size_t> entry_index;
};

/// Goes through the bytes of a header. Nothing is reserved by a count from the file: what it
/// promises must be there before memory is taken for it.
class GgufFile::Reader {
 public:
  Reader(Held& file, std::span<std::byte> all) : file_(file), all_(all) {}

  void read() {
    const uint64_t tensors = read_head(), values = number<uint64_t>();
    require_count(tensors, 24, "tensors");
    require_count(values, 13, "key-values");
    for (uint64_t i = 0; i < values; ++i) read_value(i);
    for (uint64_t i = 0; i < tensors; ++i) read_entry(i);
    find_data();
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    throw FileError(file_.path, ": ", parts...);
  }

  std::span<std::byte> take(uint64_t bytes) {
    const size_t left = all_.size() - at_;
    if (bytes > left)
      refuse("truncated: ", place_, " needs ", bytes, " bytes at byte ", at_, ", ", left,
             " are left");
    const auto taken = all_.subspan(at_, size_t(bytes));
    at_ += size_t(bytes);
    return taken;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view text() {
    const auto length = number<uint64_t>();
    return {reinterpret_cast<const char*>(take(length).data()), size_t(length)};
  }

  uint64_t read_head();
  void require_count(uint64_t count, size_t least_bytes, const char* what) const;
  std::string_view read_name(const char* what, uint64_t number, size_t most_bytes);
  GgufKind read_kind();
  void read_value(uint64_t number);
  std::span<const std::byte> take_items(GgufKind kind, uint64_t count);
  void read_entry(uint64_t number);
  Shape read_shape();
  void find_data();
  uint64_t alignment() const;

  Held& file_;
  std::span<std::byte> all_;
  size_t at_ = 0;
  std::string place_ = "the header";
  std::vector<uint64_t> offsets_ = {};  // of tensors, as the file says them
};

uint64_t GgufFile::Reader::read_head() {
  const size_t shown = std::min(all_.size(), gguf::kMagic.size());
  const std::string_view magic(reinterpret_cast<const char*>(all_.data()), shown);
  if (magic != gguf::kMagic.substr(0, shown))
    refuse("no GGUF file: it begins with ", quoted(magic), ", \"GGUF\" was wanted");
  take(gguf::kMagic.size());
  file_.version = number<uint32_t>();
  if ((file_.version & 0xffff) == 0 && file_.version != 0)
    refuse("a big-endian GGUF file, a little-endian one was wanted");
  if (file_.version < 2 || file_.version > gguf::kVersion)
    refuse("GGUF of version ", file_.version, ", version 2 or 3 was wanted");
  return number<uint64_t>();
}

/// So that a count that cannot be true is named as such.
void GgufFile::Reader::require_count(uint64_t count, size_t least_bytes, const char* what) const {
  const size_t left = all_.size() - at_;
  if (count > left / least_bytes)
    refuse("truncated: ", count, " ", what, " are announced, ", left, " bytes are left");
}

std::string_view GgufFile::Reader::read_name(const char* what, uint64_t number, size_t most_bytes) {
  place_ = detail::concat(what, " ", number);
  const std::string_view name = text();
  if (const char* fault = gguf::fault_of(name, most_bytes))
    refuse(what, " ", number, ": the name ", quoted(name), " ", fault, ", 1 to ", most_bytes,
           " bytes of text were wanted");
  place_ = detail::concat(what, " ", quoted(name));
  return name;
}

GgufKind GgufFile::Reader::read_kind() {
  const auto kind = number<uint32_t>();
  if (kind > uint32_t(GgufKind::f64)) refuse(place_, " has the unknown kind ", kind);
  return GgufKind(kind);
}

void GgufFile::Reader::read_value(uint64_t number) {
  GgufValue value;
  value.path_ = &file_.path;
  value.key_ = read_name("key", number, gguf::kMaxKey);
  value.kind_ = value.item_ = read_kind();
  if (value.kind_ == GgufKind::array) {
    value.item_ = read_kind();
    if (value.item_ == GgufKind::array)
      refuse(place_, " is an array of arrays, one of numbers, bools or strings was wanted");
    value.count_ = size_t(this->number<uint64_t>());
    value.bytes_ = take_items(value.item_, value.count_);
  } else if (value.kind_ == GgufKind::string) {
    value.bytes_ = std::as_bytes(std::span(text()));
  } else {
    value.bytes_ = take_items(value.kind_, 1);
  }
  if (!file_.value_index.emplace(value.key_, file_.values.size()).second)
    refuse(place_, " comes twice");
  file_.keys.emplace_back(value.key_);
  file_.values.push_back(value);
}

std::span<const std::byte> GgufFile::Reader::take_items(GgufKind kind, uint64_t count) {
  const size_t begin = at_;
  if (kind == GgufKind::string) {
    for (uint64_t i = 0; i < count; ++i) text();
  } else {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(count, gguf::size_of(kind), &bytes))
      refuse("truncated: ", place_, " announces ", count, " items, ", all_.size() - at_,
             " bytes are left");
    take(bytes);
  }
  const std::span<const std::byte> items = all_.subspan(begin, at_ - begin);
  if (kind == GgufKind::boolean)
    for (const std::byte b : items)
      if (b > std::byte{1})
        refuse(place_, " holds a bool of value ", int(b), ", 0 or 1 was wanted");
  return items;
}

Shape GgufFile::Reader::read_shape() {
  const auto rank = number<uint32_t>();
  if (rank > uint32_t(gguf::kMaxDims))
    refuse(place_, " has ", rank, " dimensions, at most ", gguf::kMaxDims, " are possible");
  Shape shape;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto size = number<uint64_t>();
    if (size >> 62) refuse(place_, " has the impossible size ", size);
    shape.insert(0, int64_t(size));
  }
  return shape;
}

void GgufFile::Reader::read_entry(uint64_t number) {
  GgufEntry entry;
  const std::string_view name = read_name("tensor", number, gguf::kMaxName);
  entry.name = name;
  entry.shape = read_shape();
  const auto type = this->number<uint32_t>();
  const GgufTypeInfo* info = find_info(type);
  if (!info)
    refuse(place_, " has ", gguf_type_name(type), ", which is no type of tensors in GGUF files");
  entry.type = info->type;
  const int64_t row = entry.shape.rank() ? entry.shape.back() : 1;
  if (row % info->block_elements != 0)
    refuse(place_, " of shape ", entry.shape, " has rows of ", row, " elements, whole blocks of ",
           info->block_elements, " were wanted for ", info->name);
  const auto bytes = gguf::byte_size(*info, entry.shape);
  if (!bytes) refuse(place_, " has the impossible shape ", entry.shape);
  entry.bytes = *bytes;
  offsets_.push_back(this->number<uint64_t>());
  if (!file_.entry_index.emplace(name, file_.entries.size()).second) refuse(place_, " comes twice");
  file_.entries.push_back(std::move(entry));
}

uint64_t GgufFile::Reader::alignment() const {
  const auto at = file_.value_index.find(gguf::kAlignmentKey);
  if (at == file_.value_index.end()) return gguf::kAlignment;
  const GgufValue& value = file_.values[at->second];
  if (value.kind() != GgufKind::u32) value.refuse("u32");
  if (!std::has_single_bit(uint64_t(value.as_int())))
    refuse("key \"", gguf::kAlignmentKey, "\" is ", value.as_int(), ", a power of two was wanted");
  return uint64_t(value.as_int());
}

/// Tensors follow each other in the order of the header, each padded to the alignment.
void GgufFile::Reader::find_data() {
  const uint64_t align = alignment();
  const uint64_t begin = kernels::round_up(uint64_t(at_), align);
  if (file_.entries.empty()) return;
  if (begin > all_.size())
    refuse("truncated: data begins at byte ", begin, ", the file has ", all_.size(), " bytes");
  file_.data = all_.subspan(size_t(begin));
  uint64_t end = 0;
  for (size_t i = 0; i < file_.entries.size(); ++i) {
    GgufEntry& entry = file_.entries[i];
    if (offsets_[i] != end)
      refuse("tensor ", quoted(entry.name), " begins at byte ", offsets_[i], " of the data, byte ",
             end, " was wanted");
    if (end > file_.data.size() || entry.bytes > file_.data.size() - end)
      refuse("truncated: tensor ", quoted(entry.name), " ends at byte ", end + entry.bytes,
             " of the data, which has ", file_.data.size());
    entry.begin = size_t(end);
    end = kernels::round_up(end + entry.bytes, align);
  }
}

GgufFile GgufFile::open(const std::string& path) {
  auto held = std::make_shared<Held>();
  held->path = path;
  held->mapped = MappedFile::open(path);
  held->owner = held->mapped;
  Reader(*held, {held->mapped->data(), held->mapped->size()}).read();
  return GgufFile(std::move(held));
}

GgufFile GgufFile::parse(std::string_view bytes, const std::string& what) {
  // Words, so that the data is aligned as in a mapped file.
  auto copy = std::make_shared<std::vector<uint64_t>>(bytes.size() / 8 + 1);
  std::memcpy(copy->data(), bytes.data(), bytes.size());
  auto held = std::make_shared<Held>();
  held->path = what;
  held->owner = copy;
  Reader(*held, {reinterpret_cast<std::byte*>(copy->data()), bytes.size()}).read();
  return GgufFile(std::move(held));
}

const std::string& GgufFile::path() const { return held_->path; }
uint32_t GgufFile::version() const { return held_->version; }
const std::vector<std::string>& GgufFile::keys() const { return held_->keys; }
const std::vector<GgufEntry>& GgufFile::entries() const { return held_->entries; }

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto at = held_->value_index.find(key);
  return at == held_->value_index.end() ? nullptr : &held_->values[at->second];
}

const GgufValue& GgufFile::at(std::string_view key) const {
  if (const GgufValue* value = find(key)) return *value;
  throw FileError(path(), ": has no key ", quoted(key));
}

bool GgufFile::contains(std::string_view name) const { return held_->entry_index.count(name) != 0; }

const GgufEntry& GgufFile::entry(std::string_view name) const {
  const auto at = held_->entry_index.find(name);
  if (at == held_->entry_index.end()) throw FileError(path(), ": holds no tensor ", quoted(name));
  return held_->entries[at->second];
}

std::span<const std::byte> GgufFile::bytes(std::string_view name) const {
  const GgufEntry& e = entry(name);
  return held_->data.subspan(e.begin, e.bytes);
}

Tensor GgufFile::tensor(std::string_view name) const {
  const GgufEntry& e = entry(name);
  std::byte* data = held_->data.data() + e.begin;
  if (!gguf_type(uint32_t(e.type)))
    throw FileError(path(), ": tensor ", quoted(name), " is of type ",
                    gguf_type_name(uint32_t(e.type)), ", which is not read");
  const bool whole = info_of(e.type).block_elements > 1;  // blocks are no elements of a Tensor
  const DType dtype = e.type == GgufType::f16 ? f16 : e.type == GgufType::bf16 ? bf16 : f32;
  if (whole || reinterpret_cast<uintptr_t>(data) % size_of(dtype) != 0) {
    Tensor copy = empty(e.shape, {.dtype = dtype});
    if (whole)
      dequantize(e.type, data, e.shape.numel(), copy.mutable_data<float>());
    else
      std::memcpy(copy.mutable_data(), data, e.bytes);
    return copy;
  }
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(data, e.bytes, cpu, [held = held_] {});
  impl->shape = e.shape;
  impl->strides = contiguous_strides(e.shape);
  impl->dtype = dtype;
  return Tensor(std::move(impl));
}

void GgufFile::release(std::string_view name) const {
  const std::span<const std::byte> freed = bytes(name);
  if (held_->mapped)
    held_->mapped->release(size_t(freed.data() - held_->mapped->data()), freed.size());
}

}  // namespace olm
