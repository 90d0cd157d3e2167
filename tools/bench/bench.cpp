#include "tools/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/tape.h>
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

std::string text_of(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

void add_op(Cases& cases, const OpCase& op) {
  const auto prepare_forward = [op] {
    Generator rng(1);
    return [op, leaves = op.make(rng)] {
      const NoGrad guard;
      return op.call(leaves);
    };
  };
  const auto prepare_both = [op] {
    Generator rng(1);
    const Tensors leaves = op.make(rng);
    Tensors dys;
    for (const Tensor& y : op.call(leaves))
      dys.push_back(y.rank() == 0 ? ones_like(y) : randn(y.shape(), rng, options_of(y)));
    for (const Tensor& leaf : leaves) set_requires_grad(leaf);
    return [op, leaves, dys] {
      const Tensors ys = op.call(leaves);
      Tensors results = gradients(ys, dys, leaves);
      for (const Tensor& y : ys) results.push_back(detach(y));
      return results;
    };
  };
  cases.push_back({.name = op.name,
                   .shape = op.shape,
                   .pass = "forward",
                   .dtype = op.dtype,
                   .cost = op.forward,
                   .prepare = prepare_forward});
  cases.push_back({.name = op.name,
                   .shape = op.shape,
                   .pass = "forward+backward",
                   .dtype = op.dtype,
                   .cost = op.both,
                   .prepare = prepare_both});
}

void require_writable(const std::string& json_path) {
  if (json_path != "-" && !json_path.empty()) FileWriter{json_path};  // leaves nothing behind
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
