#include <olm/nn/data.h>

namespace olm::nn {

void set_documents(Context& ctx, const Tensor& ids, int64_t end_of_text,
                   std::optional<Device> device) {
  require(ids.rank() == 2 && (ids.dtype() == i32 || ids.dtype() == i64),
          "set_documents: wanted ids [B,T] of i32 or i64, got ", ids.dtype(), " ", ids.shape());
  const std::vector<int64_t> values = to_host<int64_t>(ids);
  const int64_t time = ids.size(1);
  std::vector<int64_t> documents(values.size()), positions(values.size());
  for (size_t i = 1; i < values.size(); ++i) {
    if (int64_t(i) % time == 0) continue;
    const bool begins = values[i - 1] == end_of_text;
    documents[i] = documents[i - 1] + begins;
    positions[i] = begins ? 0 : positions[i - 1] + 1;
  }
  ctx.documents = from_host(documents, ids.shape(), device.value_or(ids.device()));
  ctx.positions = from_host(positions, ids.shape(), device.value_or(ids.device()));
}

}  // namespace olm::nn
