// olm bench KERNEL…: single kernels against the limits of the machine.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include <olm/engine/allocator.h>
#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include <olm/kernels/base/instruction_set.h>
#include <olm/nn/version.h>

#include "tools/bench/bench.h"
#include "tools/olm/commands.h"
#include "tools/olm/machine.h"

namespace olm::tools {

std::string bench_names() {
  std::string names;
  for (const Bench& b : benches())
    names += fmt::format("{}{} ({})", names.empty() ? "" : ", ", b.name, b.axes);
  return names;
}

namespace {

std::vector<const Bench*> chosen(const std::vector<std::string>& names) {
  std::vector<const Bench*> result;
  std::string known;
  for (const Bench& b : benches()) known += std::string(b.name) + ", ";
  for (const std::string& name : names) {
    const size_t before = result.size();
    for (const Bench& b : benches())
      if (name == "all" || name == b.name) result.push_back(&b);
    require(result.size() > before, "no benchmark is called \"", name, "\"; there are ", known,
            "step, compare, and all");
  }
  return result;
}

Sizes parse_shape(const Bench& bench, const std::string& text) {
  Sizes sizes;
  const char* at = text.data();
  const char* end = at + text.size();
  bool good = true;
  while (good) {
    int64_t size = 0;
    const auto [rest, error] = std::from_chars(at, end, size);
    good = error == std::errc() && size >= 1 && size <= int64_t(1) << 31;
    sizes.push_back(size);
    if (rest == end) break;
    good = good && *rest == 'x';
    at = rest + 1;
  }
  const std::string axes = bench.axes;
  good = good && int64_t(sizes.size()) == 1 + std::count(axes.begin(), axes.end(), 'x');
  require(good, "--shape: wants ", axes, " for ", bench.name, ", got \"", text, "\"");
  return sizes;
}

double memory_of(Device device) {
  if (device.kind == DeviceKind::cuda)
    return double(cuda_backend::cards().at(size_t(device.index)).memory);
  return double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
}

/// Throws where operands and results would take more than the device has.
void check_fits(const Bench& bench, const Sizes& shape, bool cold, Device device) {
  const double wanted = bench.elements(shape) * sizeof(float) * (cold ? 2 : 1);
  const double there = memory_of(device);
  require(wanted <= there, "--shape: ", bench.name, " ", text_of(shape), " takes about ",
          bytes_text(wanted), " of memory, and ", device == cpu ? "this machine" : "the device",
          " has ", bytes_text(there));
}

Cases gather_cases(const BenchArgs& args, Device device) {
  const std::vector<const Bench*> wanted = chosen(args.kernels);
  require(args.shape.empty() || wanted.size() == 1, "--shape: wants one kernel, got ",
          wanted.size());
  std::vector<DType> dtypes{f32, bf16};
  if (args.dtype != "all") dtypes = {bench_dtype(args.dtype)};
  Cases cases;
  for (const Bench* b : wanted) {
    std::vector<Sizes> shapes = b->shapes;
    if (!args.shape.empty()) shapes = {parse_shape(*b, args.shape)};
    for (const Sizes& shape : shapes) check_fits(*b, shape, args.cold, device);
    for (const DType dtype : dtypes)
      for (const Sizes& shape : shapes) b->add(cases, shape, dtype);
  }
  require(!cases.empty(), "--dtype: ", args.kernels.front(), " has no cases in ", args.dtype);
  return cases;
}

/// Operands of a call, and the seconds that it takes upon them.
class Timed {
 public:
  /// With `copies` operands above 1 the calls take them in turn.
  Timed(const Prepare& prepare, int64_t copies, Device device)
      : device_(device), results_(static_cast<size_t>(copies)) {
    for (int64_t i = 0; i < copies; ++i) calls_.push_back(prepare(device));
    synchronize(device);
    run_many(copies);
    const double once = run_many(copies) / double(copies);
    inner_ = int64_t(std::clamp(std::ceil(0.01 / std::max(once, 1e-9)), 1.0, 1e6));
  }
  /// Microseconds of one call.
  double sample() {
    run_many(1);  // wakes the threads, which slept through the canary
    return 1e6 * run_many(inner_) / double(inner_);
  }

 private:
  double run_many(int64_t n) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (int64_t i = 0; i < n; ++i, next_ = (next_ + 1) % calls_.size()) {
      Tensors result = calls_[next_]();
      if (calls_.size() > 1) results_[next_].swap(result);
    }
    synchronize(device_);  // calls only queue work where a device has a stream
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  Device device_;
  std::vector<std::function<Tensors()>> calls_;
  std::vector<Tensors> results_;
  size_t next_ = 0;
  int64_t inner_ = 1;
};

/// Of one call, and, where there is one, of that beside it.
struct Times {
  double us = 0, beside_us = 0;
};

Kept<Times> time_calls(const Case& c, Gate& gate, const Series& how, int64_t copies,
                       Device device) {
  Timed own(c.prepare, copies, device);
  std::optional<Timed> beside;
  if (c.beside.prepare) beside.emplace(c.beside.prepare, copies, device);
  return sample_series(gate, how, [&]() -> Times {
    return {.us = own.sample(), .beside_us = beside ? beside->sample() : 0};
  });
}

Spread spread_over(const std::vector<Times>& times, double (*value)(const Times&)) {
  std::vector<double> values;
  for (const Times& t : times) values.push_back(value(t));
  return spread_of(std::move(values));
}

/// What a case is held against.
struct Measured {
  Spread us = {};
  Spread beside_us = {}, ratio = {};  ///< ratio: of each pair's own time by that beside it
  int64_t kept = 0, taken = 0;
  bool cold = false;
  Roof roof = {};
  double percent = 0;
};

/// Bytes of the largest cache; on a GPU more than any has.
size_t cache_of(Device device) { return device == cpu ? last_level_cache() : size_t(1) << 28; }

Measured measure(const Case& c, const BenchArgs& args, const Roofs& roofs, Gate& gate,
                 Device device) {
  Measured m{.us = {}, .cold = args.cold && !c.cost.gemm};
  int64_t copies = 1;
  if (m.cold)
    copies = std::clamp(int64_t(2 * double(cache_of(device)) / c.cost.bytes) + 1, int64_t(2),
                        int64_t(1024));
  const Kept<Times> kept = time_calls(
      c, gate, {.least = args.reps, .budget = args.budget, .patience = 5}, copies, device);
  empty_cache(device);
  m.us = spread_over(kept.values, [](const Times& t) { return t.us; });
  m.beside_us = spread_over(kept.values, [](const Times& t) { return t.beside_us; });
  m.ratio = spread_over(kept.values, [](const Times& t) { return t.us / t.beside_us; });
  m.kept = kept.kept;
  m.taken = kept.taken;
  if (roofs.f32_fma == 0) return m;
  const double set = c.cost.working_set > 0 ? c.cost.working_set : c.cost.bytes;
  const Roof flops = roofs.arithmetic(c.dtype, c.cost.gemm);
  const Roof bytes = roofs.memory(c.cost.traffic, set, m.cold);
  const double by_flops = c.cost.flop / flops.rate, by_bytes = c.cost.bytes / bytes.rate;
  m.roof = by_flops > by_bytes ? flops : bytes;
  m.percent = 100 * std::max(by_flops, by_bytes) / 1e9 / (m.us.median / 1e6);
  return m;
}

Json json_of(const Case& c, const Measured& m, const std::string& where) {
  Json j = Json::object();
  j["case"] = fmt::format("{} {} {} {}{}, {}", c.name, c.shape, name_of(c.dtype), c.pass,
                          m.cold ? " cold" : "", where);
  j["name"] = c.name;
  j["shape"] = c.shape;
  j["dtype"] = name_of(c.dtype);
  j["pass"] = c.pass;
  j["cold"] = m.cold;
  j["us"] = rounded(m.us.median);
  j["min_us"] = rounded(m.us.min);
  j["max_us"] = rounded(m.us.max);
  j["gflops"] = rounded(c.cost.flop / m.us.median / 1e3);
  j["gbps"] = rounded(c.cost.bytes / m.us.median / 1e3);
  if (c.cost.tokens > 0) j["tokens_per_s"] = rounded(c.cost.tokens / m.us.median * 1e6);
  if (c.beside.prepare) {
    j["beside"] = c.beside.name;
    j["beside_us"] = rounded(m.beside_us.median);
    j["ratio"] = rounded(m.ratio.median);
  }
  if (m.roof.rate > 0) {
    j["roof"] = m.roof.name;
    j["percent_of_roof"] = rounded(m.percent);
  }
  j["kept"] = m.kept;
  j["samples"] = m.taken;
  return j;
}

std::string line_of(const Case& c, const Measured& m) {
  std::string s = fmt::format("{:<21} {:<15} {:<4} {:<18} {:>11.1f} us ({:.1f} to {:.1f})", c.name,
                              c.shape, name_of(c.dtype), c.pass + (m.cold ? " cold" : ""),
                              m.us.median, m.us.min, m.us.max);
  if (c.cost.flop > 0) s += fmt::format("  {:.1f} GFLOP/s", c.cost.flop / m.us.median / 1e3);
  s += fmt::format("  {:.2f} GB/s", c.cost.bytes / m.us.median / 1e3);
  if (c.cost.tokens > 0) s += fmt::format("  {:.1f} tokens/s", c.cost.tokens / m.us.median * 1e6);
  if (c.beside.prepare)
    s += fmt::format("  {:.3f} times {} ({:.3f} to {:.3f})", m.ratio.median, c.beside.name,
                     m.ratio.min, m.ratio.max);
  if (m.roof.rate > 0) s += fmt::format("  {:.0f} % of {}", m.percent, m.roof.name);
  if (m.kept < 3) s += "  (noisy)";
  return s;
}

}  // namespace

int bench_kernels(const BenchArgs& args) {
  const Device device = compute_device(args.device);
  const Cases cases = gather_cases(args, device);
  require(args.reps >= 1, "--reps: wants at least 1, got ", args.reps);
  require(args.budget >= 0, "--budget: wants 0 seconds or more, got ", args.budget);
  require_writable(args.json);
  const int threads = bench_threads(args.threads);
  Gate gate(threads, device == cpu ? args.gate : 0);  // canaries tell of this machine's cores
  Json json = Json::object();
  json["what"] = "olm_bench";
  json["version"] = version();
  json["device"] = detail::concat(device);
  json["threads"] = threads;
  json["isa"] = name_of(kernels::instruction_set());
  for (const auto& [name, value] : machine_facts()) json["machine"][name] = value;
  Roofs roofs;
  if (!args.no_roofs && device == cpu) {
    roofs = measure_roofs(threads, gate, {.least = std::min<int64_t>(args.reps, 7)});
    json["roofs"] = roofs.json();
    put_text(args.json, roofs.text());
  }
  const std::string where =
      device == cpu ? fmt::format("threads: {}", threads) : detail::concat(device);
  json["cases"] = Json::array();
  for (const Case& c : cases) {
    const Measured m = measure(c, args, roofs, gate, device);
    put_text(args.json, line_of(c, m));
    json["cases"].push_back(json_of(c, m, where));
  }
  put_json(args.json, json);
  return 0;
}

}  // namespace olm::tools
