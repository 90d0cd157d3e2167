#include <olm/nn/parallel/step_exchange_internal.h>

#include <olm/nn/parallel/bytes_internal.h>

namespace olm::nn::parallel {

std::string pack(const StepNews& news) {
  ByteWriter out;
  out.put(uint64_t(news.losses.size()));
  for (const MicroBatchLoss& l : news.losses) {
    out.put(l.loss);
    out.put(l.targets);
    out.put(l.aux);
  }
  out.put(uint64_t(news.present.size()));
  std::vector<uint8_t> bits((news.present.size() + 7) / 8);
  for (size_t i = 0; i < news.present.size(); ++i)
    if (news.present[i]) bits[i / 8] = uint8_t(bits[i / 8] | (1 << (i % 8)));
  for (const uint8_t eight : bits) out.put(eight);
  out.put(news.sums);
  return out.take() + news.note;
}

StepNews unpack(const std::string& bytes) {
  StepNews news;
  ByteReader in(bytes);
  for (auto n = in.get<uint64_t>(); n > 0; --n) {
    MicroBatchLoss& l = news.losses.emplace_back();
    l.loss = in.get<double>();
    l.targets = in.get<int64_t>();
    l.aux = in.get_list<double>();
  }
  uint8_t eight = 0;
  for (uint64_t i = 0, n = in.get<uint64_t>(); i < n; ++i) {
    if (i % 8 == 0) eight = in.get<uint8_t>();
    news.present.push_back((eight >> (i % 8)) & 1);
  }
  news.sums = in.get_list<double>();
  news.note = in.get_rest();
  return news;
}

int64_t gathered_bytes(size_t bytes, int ranks) {
  constexpr size_t kHead = 1024, kInHead = kHead - sizeof(uint64_t);
  return int64_t(ranks - 1) * int64_t(kHead + (bytes > kInHead ? bytes - kInHead : 0));
}

}  // namespace olm::nn::parallel
