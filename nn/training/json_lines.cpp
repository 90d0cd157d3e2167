#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <olm/engine/file.h>
#include <olm/nn/training.h>

namespace olm::nn {

JsonLines::JsonLines(const std::string& path) : path_(path) {
  file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0)
    throw FileError(path, ": cannot be opened: ", std::generic_category().message(errno));
}

JsonLines::~JsonLines() { ::close(file_); }

void JsonLines::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  const off_t before = ::lseek(file_, 0, SEEK_END);
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(file_, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : ENOSPC;
      const bool restored = before >= 0 && ::ftruncate(file_, before) == 0;
      throw FileError(path_, ": a line cannot be written: ", std::generic_category().message(error),
                      restored ? " (the lines before it are unchanged)" : "");
    }
    written += size_t(n);
  }
}

std::vector<Json> JsonLines::read(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<Json> lines;
  size_t at = 0;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    lines.push_back(Json::parse(std::string_view(text).substr(at, end - at),
                                path + " line " + std::to_string(lines.size() + 1)));
  return lines;
}

void JsonLines::cut(const std::string& path, int64_t step) {
  if (!file_exists(path)) return;
  std::string kept;
  for (const Json& line : read(path)) {
    const Json* at = line.is_object() ? line.find("step") : nullptr;
    if (!at || !at->is_integer() || at->as_double() >= 0x1p63)
      throw FileError(path, ": a line has no step: ", line.dump().substr(0, 200));
    if (at->as_int() <= step) kept += line.dump() + "\n";
  }
  write_file(path, kept);
}

namespace {

/// A field of RFC 4180: in quotes, which are doubled inside.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string csv_field(const Json& value) {
  if (value.is_string()) return quoted(value.as_string());
  const std::string text = value.dump();
  return value.is_object() || value.is_array() ? quoted(text) : text;
}

}  // namespace

std::string metrics_csv(const std::vector<Json>& lines) {
  std::vector<std::string> names;
  for (const Json& line : lines)
    for (const auto& [name, value] : line.members())
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    const bool plain = names[i].find_first_of("\",\r\n") == std::string::npos;
    out += (i ? "," : "") + (plain ? names[i] : quoted(names[i]));
  }
  out += "\n";
  for (const Json& line : lines) {
    for (size_t i = 0; i < names.size(); ++i) {
      const Json* value = line.find(names[i]);
      out += i ? "," : "";
      if (value && !value->is_null()) out += csv_field(*value);
    }
    out += "\n";
  }
  return out;
}

}  // namespace olm::nn
