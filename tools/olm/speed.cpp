#include "tools/olm/speed.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include <olm/autograd/ops/linear.h>
#include <olm/autograd/tape.h>
#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>

namespace olm::tools {

namespace {

using Clock = std::chrono::steady_clock;

/// The median of the seconds that `call` takes, over `budget` seconds and at least three calls.
double median_seconds(Device device, double budget, const std::function<void()>& call) {
  call();  // makes memory, wakes threads
  synchronize(device);
  std::vector<double> times;
  const auto begin = Clock::now();
  const auto since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  while (times.size() < 3 || since(begin) < budget) {
    const auto start = Clock::now();
    call();
    synchronize(device);
    times.push_back(since(start));
  }
  std::nth_element(times.begin(), times.begin() + long(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// From NVIDIA's data sheets: H100, H200 and A100 as SXM modules, B200 as in a DGX B200, L40S, and
/// RTX 4090 with sums in f32. Rates are without sparsity. Neighbours are reached over NVLink, half
/// of whose rate is for sending, or over PCIe 4.
constexpr Card kCards[] = {
    {"h100", 989, 67, 80, 3350, 450, 8},   {"h200", 989, 67, 141, 4800, 450, 8},
    {"b200", 2250, 75, 180, 8000, 900, 8}, {"a100", 312, 19.5, 80, 2039, 300, 8},
    {"l40s", 362, 91.6, 48, 864, 32, 8},   {"rtx4090", 165, 82.6, 24, 1008, 32, 4},
};

}  // namespace

std::string card_names() {
  std::string names;
  for (const Card& card : kCards) names += (names.empty() ? "" : ", ") + std::string(card.name);
  return names;
}

const Card& find_card(const std::string& name) {
  for (const Card& card : kCards)
    if (name == card.name) return card;
  fail("--gpu: unknown card \"", name, "\"; known are ", card_names());
}

MatrixShape usual_matrix(nn::Module& model) {
  std::map<std::pair<int64_t, int64_t>, double> elements;
  model.for_each_module([&](const std::string&, nn::Module& module) {
    if (module.flops_per_token(1) == 0) return;  // a table
    module.for_each_own_parameter([&](nn::Parameter& p) {
      const Shape& shape = p.shape();
      if (shape.rank() == 2) elements[{shape[0], shape[1]}] += double(shape.numel());
    });
  });
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  if (most == elements.end()) return {1024, 1024};
  return {most->first.first, most->first.second};
}

double measure_matrix_rate(Device device, DType dtype, int64_t rows, MatrixShape matrix) {
  const NoGrad guard;
  const double most = device == cpu ? 4e9 : 2e12;  // operations of a call
  const double row = 2 * double(matrix.rows) * double(matrix.columns);
  const int64_t m = std::clamp(int64_t(most / row), int64_t(16), std::max<int64_t>(16, rows));
  Generator rng(1);
  const Tensor x = raw::to(uniform({m, matrix.columns}, rng, {.dtype = dtype}), device);
  const Tensor w = raw::to(uniform({matrix.rows, matrix.columns}, rng), device);
  return row * double(m) / median_seconds(device, 0.3, [&] { linear(x, w); });
}

double measure_memory_rate(Device device) {
  constexpr int64_t kElements = int64_t(1) << 24;
  const Tensor a = zeros({kElements}, {f32, device}), b = zeros({kElements}, {f32, device});
  return 12 * double(kElements) / median_seconds(device, 0.1, [&] { raw::add_(a, b); });
}

double measure_link(const dist::Comm& comm, Device device) {
  constexpr int64_t kElements = int64_t(1) << 20;  // 4 MiB for each of the others
  const dist::Counts counts(size_t(comm.size()), kElements);
  const Tensor x = zeros({comm.size() * kElements}, {f32, device}), y = zeros_like(x);
  std::vector<double> times;
  for (int i = 0; i < 8; ++i) {  // as many on each rank
    comm.barrier();
    const auto start = Clock::now();
    comm.all_to_all(x, counts, y, counts).wait();
    synchronize(device);
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return 4 * double(kElements) * double(comm.size() - 1) / times[times.size() / 2];
}

double memory_of(Device device, int64_t ranks) {
  if (device == cpu)
    return double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE)) / double(ranks);
  return double(cuda_backend::cards().at(size_t(device.index)).memory);
}

}  // namespace olm::tools
