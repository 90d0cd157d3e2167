#include <olm/nn/training/step_metrics_internal.h>

#include <unordered_map>

#include <olm/nn/moe.h>
#include <olm/nn/training/ranks_internal.h>

namespace olm::nn {

namespace {

using ranks::ByteReader, ranks::ByteWriter;

/// The modules of a model, which is the same on all ranks.
std::vector<const Module*> modules_of(Module& model) {
  std::vector<const Module*> all;
  model.for_each_module([&](const std::string&, Module& module) { all.push_back(&module); });
  return all;
}

void write(ByteWriter& out, const RoutingRecord& record, uint32_t router) {
  out.put(router);
  out.put(to_host<int32_t>(record.offsets));
  out.put(uint64_t(record.aux_losses.size()));
  for (const auto& [name, loss] : record.aux_losses) {
    out.put(name);
    out.put(loss.dtype());
    out.put(loss.item<double>());
  }
}

RoutingRecord read_record(ByteReader& in, const std::vector<const Module*>& modules) {
  const auto router = size_t(in.get<uint32_t>());
  require(router < modules.size(), "trainer: a rank reports router ", router, " of a model of ",
          modules.size(), " modules");
  RoutingRecord record{.router = modules[router]};
  const std::vector<int32_t> offsets = in.get_list<int32_t>();
  record.offsets = from_host(offsets, {int64_t(offsets.size())});
  for (auto losses = in.get<uint64_t>(); losses > 0; --losses) {
    const std::string name = in.get_text();
    const auto dtype = in.get<DType>();
    record.aux_losses[name] = full({}, in.get<double>(), {.dtype = dtype});
  }
  return record;
}

void decode(const std::string& bytes, const std::vector<const Module*>& modules,
            std::vector<MicroBatchMetrics>& all) {
  for (ByteReader in(bytes); !in.done();) {
    MicroBatchMetrics& one = all.emplace_back();
    one.targets = in.get<int64_t>();
    for (auto values = in.get<uint64_t>(); values > 0; --values) {
      const std::string name = in.get_text();
      one.metrics.values[name] = in.get<double>();
    }
    for (auto records = in.get<uint64_t>(); records > 0; --records)
      one.metrics.routing.push_back(read_record(in, modules));
  }
}

}  // namespace

std::string write_metrics(Module& model, const std::vector<MicroBatchMetrics>& mine,
                          bool with_routing) {
  std::unordered_map<const Module*, uint32_t> numbers;
  const std::vector<const Module*> modules = modules_of(model);
  for (size_t i = 0; i < modules.size(); ++i) numbers.try_emplace(modules[i], uint32_t(i));
  ByteWriter out;
  for (const MicroBatchMetrics& one : mine) {
    out.put(one.targets);
    out.put(uint64_t(one.metrics.values.size()));
    for (const auto& [name, value] : one.metrics.values) {
      out.put(name);
      out.put(value);
    }
    std::vector<RoutingRecord> records;
    if (with_routing) records = on_host(one.metrics.routing);
    std::erase_if(records, [&](const RoutingRecord& r) { return !numbers.contains(r.router); });
    out.put(uint64_t(records.size()));
    for (const RoutingRecord& record : records) write(out, record, numbers[record.router]);
  }
  return out.take();
}

Metrics merge_metrics(std::vector<MicroBatchMetrics> all) {
  struct Sum {
    double first = 0, weighted = 0, targets = 0;
    int64_t reports = 0;
  };
  std::map<std::string, Sum> sums;
  Metrics result;
  for (MicroBatchMetrics& one : all) {
    for (const auto& [name, value] : one.metrics.values) {
      Sum& sum = sums[name];
      if (sum.reports++ == 0) sum.first = value;
      sum.weighted += value * double(one.targets);
      sum.targets += double(one.targets);
    }
    for (RoutingRecord& record : one.metrics.routing) result.routing.push_back(std::move(record));
  }
  for (const auto& [name, sum] : sums)
    result.values[name] =
        sum.reports == 1 || sum.targets == 0 ? sum.first : sum.weighted / sum.targets;
  return result;
}

Metrics merge_metrics(Module& model, const std::vector<std::string>& notes) {
  const std::vector<const Module*> modules = modules_of(model);
  std::vector<MicroBatchMetrics> all;
  for (const std::string& bytes : notes) decode(bytes, modules, all);
  return merge_metrics(std::move(all));
}

}  // namespace olm::nn
