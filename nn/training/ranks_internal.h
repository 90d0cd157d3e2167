#pragma once
// What the ranks of a training tell each other beside gradients.
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

#include <olm/engine/comm.h>

namespace olm::nn::ranks {

/// Values as bytes, one behind the other.
class ByteWriter {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T)); }
  void put(const std::string& text) {
    put(uint64_t(text.size()));
    bytes_ += text;
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(const std::string& bytes) : bytes_(bytes) {}
  bool done() const { return at_ == bytes_.size(); }
  template <class T>
  requires std::is_trivially_copyable_v<T> T get() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string get_text() {
    const auto size = size_t(get<uint64_t>());
    return {take(size), size};
  }

 private:
  const char* take(size_t n) {
    require(n <= bytes_.size() - at_, "ranks: a message of ", bytes_.size(),
            " bytes ends too early");
    return bytes_.data() + std::exchange(at_, at_ + n);
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

/// True on all ranks where it is on one.
bool on_any_rank(const dist::Comm& comm, bool mine);

/// What rank 0 makes, on all ranks. Where that throws all do.
template <class Make>
auto of_first_rank(const dist::Comm& comm, Make&& make) {
  using T = decltype(make());
  static_assert(std::is_trivially_copyable_v<T>);
  if (comm.size() == 1) return make();
  const std::string bytes = dist::all_gather_of(comm, [&] {
    ByteWriter writer;
    if (comm.rank() == 0) writer.put(make());
    return writer.take();
  })[0];
  return ByteReader(bytes).get<T>();
}

/// Tells the other ranks of an error that is thrown here, so that none waits for this one.
void tell_failure(const dist::Comm& comm);
template <class Act>
auto or_fail(const dist::Comm& comm, Act&& act) {
  try {
    return act();
  } catch (...) {
    tell_failure(comm);
    throw;
  }
}

}  // namespace olm::nn::ranks
