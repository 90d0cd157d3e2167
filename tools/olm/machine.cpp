#include "tools/olm/machine.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include <olm/engine/cuda/report.h>
#include <olm/kernels/base/instruction_set.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/gemm.h>
#include <olm/nn/version.h>

namespace olm::tools {

namespace {

/// The first line of a file that begins with `key`, behind its colon.
std::string line_of(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t at = line.find_first_not_of(" \t:", key.size());
    return at == std::string::npos ? "" : line.substr(at);
  }
  return "unknown";
}

/// What the processor offers, and what the kernels make of it.
std::string instruction_sets() {
  const kernels::CpuFeatures in_use = kernels::cpu_features();
  std::string used = name_of(in_use.vectors);
  if (in_use.amx) used += " and AMX";
  if (in_use.avx512_bf16) used += " with AVX512_BF16";
#if defined(__x86_64__)
  __builtin_cpu_init();
  std::string sets = "SSE4";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets += ", AVX2";
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) sets += ", AVX-512";
  const std::string flags = line_of("/proc/cpuinfo", "flags");
  if (flags.find("amx_bf16") != std::string::npos) sets += ", AMX (bf16)";
  return fmt::format("{}; kernels use {}", sets, used);
#else
  return fmt::format("kernels use {}", used);
#endif
}

/// A function of the BLAS that was loaded, or null.
template <class Function>
Function* of_blas(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

/// Its version, the processor its kernels are for, how it runs in threads, and its file.
std::string blas() {
  const auto config = of_blas<char*()>("openblas_get_config");
  const auto core = of_blas<char*()>("openblas_get_corename");
  const auto parallel = of_blas<int()>("openblas_get_parallel");
  if (!config || !core || !parallel) return "no OpenBLAS";
  const std::string all = config();
  const std::string version = all.substr(0, all.find(' ', all.find(' ') + 1));
  const int kind = parallel();
  const char* variant = kind == 2   ? "OpenMP variant"
                        : kind == 1 ? "pthread variant (one product at a time)"
                                    : "serial variant (one product at a time)";
  std::string text = fmt::format("{}, kernels for {}, {}", version, core(), variant);
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(config), &info) && info.dli_fname)
    text += fmt::format(", {}", info.dli_fname);
  return text;
}

std::string memory() {
  const double page = double(sysconf(_SC_PAGESIZE));
  return fmt::format("{}, {} free", bytes_text(double(sysconf(_SC_PHYS_PAGES)) * page),
                     bytes_text(double(sysconf(_SC_AVPHYS_PAGES)) * page));
}

std::string system_name() {
  std::string name = line_of("/etc/os-release", "PRETTY_NAME=");
  std::erase(name, '"');
  return name;
}

/// What the build has for CUDA, and what this machine does.
std::string cuda_support() {
  const std::string archs = cuda_backend::compiled_architectures();
  if (archs.empty()) return cuda_backend::why_not(0);
  const std::string driver = cuda_backend::driver_version(), problem = cuda_backend::why_not(0);
  return fmt::format("kernels for {}, runtime {}{}{}", archs, cuda_backend::runtime_version(),
                     driver.empty() ? "" : ", driver for CUDA " + driver,
                     problem.empty() ? "" : "; " + problem);
}

std::string card_text(const cuda_backend::CardInfo& card) {
  return fmt::format("{}, {}", card.name, bytes_text(double(card.memory)));
}

Facts basic_facts() {
  return {{"olm", version()},
          {"system", system_name()},
          {"processor", line_of("/proc/cpuinfo", "model name")},
          {"cores", std::to_string(sysconf(_SC_NPROCESSORS_ONLN))},
          {"threads", fmt::format("{} (OLM_NUM_THREADS and --threads set them)", num_threads())},
          {"instruction sets", instruction_sets()},
          {"matrix products",
           fmt::format("f32 by {}, bf16 by {}, f64 by {}", kernels::gemm_kernels(f32),
                       kernels::gemm_kernels(bf16), kernels::gemm_kernels(f64))},
          {"BLAS", blas()},
          {"memory", memory()},
          {"CUDA", cuda_support()}};
}

}  // namespace

Facts machine_facts() {
  Facts facts = basic_facts();
  if (const std::string library = cuda_backend::cublas_lt(); !library.empty())
    facts.emplace_back("cuBLASLt", library);
  if (const std::string library = cuda_backend::nccl_library(); !library.empty())
    facts.emplace_back("NCCL", library);
  const std::vector<cuda_backend::CardInfo> cards = cuda_backend::cards();
  for (size_t i = 0; i < cards.size(); ++i) {
    const std::string problem = cuda_backend::why_not(int(i));
    facts.emplace_back(
        detail::concat(cuda(int(i))),
        fmt::format("{}, compute capability {}.{}{}", card_text(cards[i]), cards[i].major,
                    cards[i].minor, problem.empty() ? "" : "; cannot be used: " + problem));
  }
  return facts;
}

std::string device_text(Device device) {
  if (device == cpu)
    return fmt::format("cpu, {} {}", num_threads(), num_threads() == 1 ? "thread" : "threads");
  const std::vector<cuda_backend::CardInfo> cards = cuda_backend::cards();
  const bool known = size_t(device.index) < cards.size();
  return detail::concat(device) + (known ? ", " + card_text(cards[size_t(device.index)]) : "");
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e15) return fmt::format("{:.0f} TB", bytes / 1e12);
  if (bytes >= 1e12) return fmt::format("{:.3g} TB", bytes / 1e12);
  if (bytes >= 1e9) return fmt::format("{:.3g} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.3g} MB", bytes / 1e6);
  if (bytes >= 1e3) return fmt::format("{:.3g} kB", bytes / 1e3);
  return fmt::format("{:.0f} B", bytes);
}

namespace {
constexpr double kYear = 365.25 * 24 * 3600, kMaxInHours = 10 * kYear;  // what is told in hours
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (seconds > kMaxInHours) return fmt::format("{:.2g} years", seconds / kYear);
  const auto whole = int64_t(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string seconds_text(double seconds) {
  if (seconds >= 10) return duration_text(seconds);
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3g} ms", 1e3 * seconds);
  return fmt::format("{:.3g} us", 1e6 * seconds);
}

std::string loss_text(double loss) {
  return std::isnan(loss) ? "nan" : fmt::format("{:.4f}", loss);
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value < 0 ? -value : value);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return (value < 0 ? "-" : "") + digits;
}

std::string dropped_text(int64_t count) {
  return "characters left out, for which the vocabulary has no token: " + grouped(count);
}

}  // namespace olm::tools
