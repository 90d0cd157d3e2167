#include "tools/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/tape.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
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

double rounded(double value) {
  if (!(std::abs(value) > 1e-300) || std::isinf(value)) return value;
  const int places = 5 - int(std::floor(std::log10(std::abs(value))));
  // A whole scale, so that the result prints short.
  const double scale = std::pow(10.0, std::abs(places));
  return places >= 0 ? std::round(value * scale) / scale : std::round(value / scale) * scale;
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

Tensors in_f64(Tensors tensors) {
  for (Tensor& t : tensors)
    if (is_float(t.dtype())) t = raw::cast(t, f64);
  return tensors;
}

namespace {

/// Leaves of an op, and gradients of its results.
struct Operands {
  Tensors leaves, dys;
};

Operands make_operands(const OpCase& op) {
  Generator rng(1);
  Operands o{.leaves = op.make(rng), .dys = {}};
  for (const Tensor& y : op.call(o.leaves))
    o.dys.push_back(y.rank() == 0 ? ones_like(y) : randn(y.shape(), rng, options_of(y)));
  return o;
}

std::function<Tensors()> forward_call(const OpCase& op, const Tensors& leaves) {
  return [op, leaves] {
    const NoGrad guard;
    return op.call(leaves);
  };
}

std::function<Tensors()> both_call(const OpCase& op, const Operands& o) {
  const Tensors wanted(o.leaves.begin(), o.leaves.end() - ptrdiff_t(op.fixed));
  for (const Tensor& leaf : wanted) set_requires_grad(leaf);
  return [op, o, wanted] {
    const Tensors ys = op.call(o.leaves);
    Tensors results = gradients(ys, o.dys, wanted);
    for (const Tensor& y : ys) results.push_back(detach(y));
    return results;
  };
}

}  // namespace

void add_op(Cases& cases, const OpCase& op) {
  const auto leaves = [op] {
    Generator rng(1);
    return op.make(rng);
  };
  const auto wide = [op] {
    const Operands o = make_operands(op);
    return Operands{in_f64(o.leaves), in_f64(o.dys)};
  };
  cases.push_back({.name = op.name,
                   .shape = op.shape,
                   .pass = "forward",
                   .dtype = op.dtype,
                   .cost = op.forward,
                   .prepare = [=] { return forward_call(op, leaves()); },
                   .exact = [=] { return forward_call(op, in_f64(leaves()))(); }});
  cases.push_back({.name = op.name,
                   .shape = op.shape,
                   .pass = "forward+backward",
                   .dtype = op.dtype,
                   .cost = op.both,
                   .prepare = [=] { return both_call(op, make_operands(op)); },
                   .exact = [=] { return both_call(op, wide())(); }});
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
