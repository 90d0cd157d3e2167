#pragma once
// What ranks tell each other on the host, as bytes.
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm::nn::parallel {

template <class T>
concept Plain = std::is_trivially_copyable_v<T>;

/// Values as bytes, one behind the other; lists and texts behind their length.
class ByteWriter {
 public:
  template <Plain T>
  void put(const T& value) {
    append(&value, 1);
  }
  template <Plain T>
  void put(const std::vector<T>& values) {
    put(uint64_t(values.size()));
    append(values.data(), values.size());
  }
  void put(const std::string& text) {
    put(uint64_t(text.size()));
    bytes_ += text;
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <class T>
  void append(const T* values, size_t n) {
    bytes_.append(reinterpret_cast<const char*>(values), n * sizeof(T));
  }
  std::string bytes_;
};

/// Takes them from the front of bytes, which outlive it; throws where those end too early.
class ByteReader {
 public:
  explicit ByteReader(const std::string& bytes) : bytes_(bytes) {}
  bool done() const { return left() == 0; }
  template <Plain T>
  T get() {
    T value;
    std::memcpy(&value, take(1, sizeof(T)), sizeof(T));
    return value;
  }
  template <Plain T>
  std::vector<T> get_list() {
    const auto n = get<uint64_t>();
    const char* from = take(n, sizeof(T));
    std::vector<T> values(static_cast<size_t>(n));
    if (n > 0) std::memcpy(values.data(), from, size_t(n) * sizeof(T));
    return values;
  }
  std::string get_text() {
    const auto n = get<uint64_t>();
    return {take(n, 1), size_t(n)};
  }
  /// Everything that is left.
  std::string get_rest() { return bytes_.substr(std::exchange(at_, bytes_.size())); }

 private:
  size_t left() const { return bytes_.size() - at_; }
  const char* take(uint64_t n, size_t size) {
    require(n <= left() / size, "ranks: a message of ", bytes_.size(), " bytes ends too early");
    return bytes_.data() + std::exchange(at_, at_ + size_t(n) * size);
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

}  // namespace olm::nn::parallel
