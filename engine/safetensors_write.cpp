#include <algorithm>
#include <tuple>

#include <olm/engine/comm.h>
#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors_internal.h>

namespace olm {

namespace safetensors {

std::string head_of(const std::vector<Described>& tensors,
                    const std::map<std::string, std::string>& metadata) {
  std::map<std::string_view, int> seen;
  for (const Described& t : tensors)
    require(t.name != "__metadata__" && ++seen[t.name] == 1, "write_safetensors: the name \"",
            t.name, "\" comes twice or is reserved");
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
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace safetensors

using namespace safetensors;

namespace {

size_t bytes_of(const SafetensorsItem& item) {
  return byte_size(item.name, item.shape.span(), size_of(item.dtype));
}

}  // namespace

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorLayout> layout;
  std::vector<TensorPiece> whole;
  for (const auto& [name, tensor] : tensors) {
    layout.push_back({.name = name, .dtype = tensor.dtype(), .shape = tensor.shape()});
    whole.push_back({.name = name, .data = tensor});
  }
  write_safetensors(path, std::move(layout), whole, metadata, dist::Comm());
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
  file.write(head_of(described, metadata));
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
  file.write(head_of(described, metadata));
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
