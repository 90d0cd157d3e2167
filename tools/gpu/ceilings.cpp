// olm_ceilings: what a card can do at most, as one line of JSON: the bandwidth of a copy within its
// memory, the rate of a bf16 GEMM on random numbers, and the time of a launch.
//
//   olm_ceilings [--megabytes N] [--size N] [--device cuda:N]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/tape.h>
#include <olm/engine/backend.h>
#include <olm/engine/json.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>

using namespace olm;

namespace {

struct Flags {
  int64_t megabytes = 2048, size = 8192;
  Device device = cuda(0);
};

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    require(i + 1 < argc, name, " wants a value");
    const std::string value = argv[i + 1];
    if (name == "--device") {
      flags.device = parse_device(value);
      continue;
    }
    require(name == "--megabytes" || name == "--size",
            "wants --megabytes, --size or --device, got ", name);
    const int64_t number = std::atoll(value.c_str());
    require(number > 0 && number <= 65536, name, ": wants 1 to 65536, got ", value);
    (name == "--size" ? flags.size : flags.megabytes) = number;
  }
  return flags;
}

/// The median of the seconds that a call takes, over rounds of calls that the device queues.
double seconds_of(Device device, const std::function<void()>& call, int calls) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 7;
  for (int i = 0; i < 3; ++i) call();
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    synchronize(device);
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    synchronize(device);
    rounds.push_back(std::chrono::duration<double>(Clock::now() - begin).count() / calls);
  }
  std::ranges::sort(rounds);
  return rounds[kRounds / 2];
}

/// [size, size] in bf16; a block of random rows is repeated, since the host draws them slowly.
Tensor random_matrix(int64_t size, Device device, Generator& rng) {
  const int64_t rows = std::min<int64_t>(size, 256), times = size / rows;
  const Tensor block = raw::cast(raw::to(randn({1, rows, size}, rng), device), bf16);
  return raw::view(raw::contiguous(raw::expand(block, {times, rows, size})), {times * rows, size});
}

Json measure(const Flags& flags) {
  require_device(flags.device);
  const NoGrad guard;
  Json json = Json::object();
  json.append("device", detail::concat(flags.device));
  const int64_t floats = flags.megabytes * (1 << 20) / 4;
  {
    const Tensor from = full({floats}, 1.5, {.device = flags.device});
    const Tensor to = zeros({floats}, {.device = flags.device});
    const double seconds = seconds_of(
        flags.device, [&] { raw::copy_(to, from); }, 10);
    json.append("copy_tb_s", 2 * 4 * double(floats) / seconds / 1e12);
  }
  Generator rng(1);
  const Tensor a = random_matrix(flags.size, flags.device, rng),
               b = random_matrix(flags.size, flags.device, rng);
  const double n = double(a.shape()[0]), k = double(flags.size);
  require(n == k, "--size: wants a multiple of 256, or less than that, got ", flags.size);
  const double seconds = seconds_of(
      flags.device, [&] { matmul(a, b); }, 10);
  json.append("gemm_bf16_tflop_s", 2 * n * k * k / seconds / 1e12);
  const Tensor one = zeros({1}, {.device = flags.device});
  json.append("launch_us", 1e6 * seconds_of(
                                     flags.device, [&] { raw::fill_(one, 2); }, 1000));
  return json;
}

}  // namespace

int main(int argc, char** argv) try {
  std::printf("%s\n", measure(parse(argc, argv)).dump().c_str());
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "olm_ceilings: %s\n", error.what());
  return 1;
}
