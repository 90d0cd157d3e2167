#include <olm/nn/parallel/step_exchange_internal.h>

#include <cstring>

namespace olm::nn::parallel {
namespace {

template <class T>
void put(std::string& bytes, const T* values, size_t n) {
  bytes.append(reinterpret_cast<const char*>(values), n * sizeof(T));
}
template <class T>
void put(std::string& bytes, T value) {
  put(bytes, &value, 1);
}

/// Takes values from the front of bytes.
class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <class T>
  void take(T* values, size_t n) {
    require(n <= left() / sizeof(T), "step: a rank's news of ", bytes_.size(),
            " bytes end too early");
    if (n > 0) std::memcpy(values, bytes_.data() + at_, n * sizeof(T));
    at_ += n * sizeof(T);
  }
  template <class T>
  T take() {
    T value;
    take(&value, 1);
    return value;
  }
  /// A number of things of at least `size` bytes each.
  size_t count(size_t size) {
    const auto n = take<uint64_t>();
    require(n <= left() / size, "step: a rank's news of ", bytes_.size(), " bytes end too early");
    return size_t(n);
  }
  size_t left() const { return bytes_.size() - at_; }

 private:
  const std::string& bytes_;
  size_t at_ = 0;
};

}  // namespace

std::string pack(const StepNews& news) {
  std::string bytes;
  put(bytes, uint64_t(news.losses.size()));
  for (const MicroBatchLoss& l : news.losses) {
    put(bytes, l.loss);
    put(bytes, l.targets);
    put(bytes, uint64_t(l.aux.size()));
    put(bytes, l.aux.data(), l.aux.size());
  }
  put(bytes, uint64_t(news.present.size()));
  std::string bits((news.present.size() + 7) / 8, '\0');
  for (size_t i = 0; i < news.present.size(); ++i)
    if (news.present[i]) bits[i / 8] = char(bits[i / 8] | (1 << (i % 8)));
  bytes += bits;
  put(bytes, uint64_t(news.sums.size()));
  put(bytes, news.sums.data(), news.sums.size());
  return bytes + news.note;
}

StepNews unpack(const std::string& bytes) {
  StepNews news;
  Reader reader(bytes);
  news.losses.resize(reader.count(3 * sizeof(uint64_t)));
  for (MicroBatchLoss& l : news.losses) {
    l.loss = reader.take<double>();
    l.targets = reader.take<int64_t>();
    l.aux.resize(reader.count(sizeof(double)));
    reader.take(l.aux.data(), l.aux.size());
  }
  const auto parameters = reader.take<uint64_t>();
  require(parameters / 8 <= reader.left(), "step: a rank's news of ", bytes.size(),
          " bytes end too early");
  std::string bits((size_t(parameters) + 7) / 8, '\0');
  reader.take(bits.data(), bits.size());
  for (size_t i = 0; i < parameters; ++i)
    news.present.push_back((uint8_t(bits[i / 8]) >> (i % 8)) & 1);
  news.sums.resize(reader.count(sizeof(double)));
  reader.take(news.sums.data(), news.sums.size());
  news.note.resize(reader.left());
  reader.take(news.note.data(), news.note.size());
  return news;
}

int64_t gathered_bytes(size_t bytes, int ranks) {
  constexpr size_t kHead = 1024, kInHead = kHead - sizeof(uint64_t);
  return int64_t(ranks - 1) * int64_t(kHead + (bytes > kInHead ? bytes - kInHead : 0));
}

}  // namespace olm::nn::parallel
