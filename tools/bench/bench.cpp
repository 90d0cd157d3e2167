#include "tools/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <olm/engine/file.h>
#include <olm/kernels/base/parallel.h>

namespace olm::tools {

Spread spread_of(std::vector<double> values) {
  require(!values.empty(), "bench: no samples");
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
          .min = values.front(),
          .max = values.back()};
}

double rounded(double value, int places) {
  const double scale = std::pow(10.0, places);
  return std::round(value * scale) / scale;
}

DType bench_dtype(const std::string& name) {
  require(name == "f32" || name == "bf16", "--dtype: wants f32 or bf16, got \"", name, "\"");
  return name == "f32" ? f32 : bf16;
}

int bench_threads(int64_t threads) {
  require(threads >= 0 && threads <= 4096, "--threads: wants 1 to 4096, got ", threads);
  if (threads > 0) set_threads(int(threads));
  return num_threads();
}

void put_json(const std::string& path, const Json& json) {
  if (path == "-")
    fmt::print("{}\n", json.dump());
  else if (!path.empty())
    write_file(path, json.dump() + "\n");
}

void put_text(const std::string& json_path, const std::string& text) {
  std::FILE* stream = json_path == "-" ? stderr : stdout;
  fmt::print(stream, "{}\n", text);
  std::fflush(stream);
}

}  // namespace olm::tools
