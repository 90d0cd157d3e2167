#include <tests/cuda_emulator/options.h>

#include <charconv>
#include <cstdlib>
#include <stdexcept>

#include <tests/cuda_emulator/memory.h>

namespace olm::cuda_emulator {
namespace {

constexpr int kMaxDevices = kMaxDeviceCount;
constexpr int64_t kMaxMegabytes = int64_t(kArenaBytes / 2) >> 20;

int64_t number_of(std::string_view word, std::string_view text, int64_t low, int64_t high) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high)
    throw std::invalid_argument("OLM_CUDA_EMULATOR: " + std::string(word) +
                                " wants a number from " + std::to_string(low) + " to " +
                                std::to_string(high) + ", got \"" + std::string(text) + "\"");
  return value;
}

void take_word(Options& options, std::string_view word) {
  constexpr int64_t kMany = int64_t(1) << 62;
  const size_t equals = word.find('=');
  const std::string_view name = word.substr(0, equals);
  const bool has_value = equals != std::string_view::npos;
  const auto value = [&](int64_t low, int64_t high) {
    return number_of(name, has_value ? word.substr(equals + 1) : std::string_view(), low, high);
  };
  if (name == "seed") return void(options.seed = uint64_t(value(1, kMany)));
  if (name == "devices") return void(options.devices = int(value(1, kMaxDevices)));
  if (name == "memory") return void(options.memory = size_t(value(1, kMaxMegabytes)) << 20);
  if (name == "fail_launch") return void(options.fail_launch = value(1, kMany));
  if (name == "lost") return void(options.lost = value(0, kMany));
  if (!has_value) {
    if (name == "lazy") return void(options.eager = false);
    if (name == "eager") return void(options.eager = true);
    if (name == "no_driver") return void(options.no_driver = true);
    if (name == "no_card") return void(options.no_card = true);
    if (name == "old_card") return void(options.old_card = true);
  }
  throw std::invalid_argument(
      "OLM_CUDA_EMULATOR: there is no \"" + std::string(word) +
      "\"; there are lazy, eager, seed=N, devices=N, memory=M, no_driver, no_card, old_card, "
      "fail_launch=K and lost=K");
}

std::string problem;
uint64_t random_state = 0;  // 0: to be made of the seed

Options of_environment() {
  const char* words = std::getenv("OLM_CUDA_EMULATOR");
  try {
    return parse_options(words ? words : "");
  } catch (const std::invalid_argument& error) {
    problem = error.what();
    return {};
  }
}

}  // namespace

Options parse_options(std::string_view words) {
  Options options;
  options.words = words;
  while (!words.empty()) {
    const size_t comma = words.find(',');
    if (const std::string_view word = words.substr(0, comma); !word.empty())
      take_word(options, word);
    words = comma == std::string_view::npos ? std::string_view() : words.substr(comma + 1);
  }
  return options;
}

Options& options() {
  static Options in_force = of_environment();
  return in_force;
}

const std::string& options_problem() {
  options();
  return problem;
}

void set_options(const Options& all) {
  options() = all;
  random_state = 0;
}

uint64_t draw(uint64_t n) {
  if (random_state == 0)
    random_state = options().seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return n == 0 ? 0 : (random_state >> 11) % n;
}

}  // namespace olm::cuda_emulator
