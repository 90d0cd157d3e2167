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

Tensors on_device(Tensors tensors, Device device) {
  for (Tensor& t : tensors) t = raw::to(t, device);
  return tensors;
}

namespace {

/// Inputs of an op, and gradients of its results.
struct Operands {
  Tensors inputs, dys;
};

Tensors make_inputs(const test::OpCase& op, const Sizes& shape, DType dtype) {
  Generator rng(1);
  return in_dtype(op, op.inputs(rng, Shape(shape)), dtype);
}

Operands make_operands(const test::OpCase& op, const Sizes& shape, DType dtype) {
  Operands o{.inputs = make_inputs(op, shape, dtype), .dys = {}};
  Generator rng(2);
  for (const Tensor& y : op.op(o.inputs))
    o.dys.push_back(y.rank() == 0 ? ones_like(y) : randn(y.shape(), rng, options_of(y)));
  return o;
}

std::function<Tensors()> forward_call(const test::OpCase& op, const Tensors& inputs) {
  return [op, inputs] {
    const NoGrad guard;
    return op.op(inputs);
  };
}

std::function<Tensors()> both_call(const test::OpCase& op, const Operands& o) {
  Tensors wanted;
  for (size_t i = 0; i < o.inputs.size(); ++i)
    if (is_differentiated(op, i, o.inputs[i].dtype())) wanted.push_back(o.inputs[i]);
  for (const Tensor& leaf : wanted) set_requires_grad(leaf);
  return [op, o, wanted] {
    const Tensors ys = op.op(o.inputs);
    Tensors results = gradients(ys, o.dys, wanted);
    for (const Tensor& y : ys) results.push_back(detach(y));
    return results;
  };
}

}  // namespace

void add_op(Cases& cases, const test::OpCase& op, const Sizes& shape, DType dtype) {
  require(bool(op.cost), "bench: ", op.name, " does not say what it costs");
  const auto inputs = [=] { return make_inputs(op, shape, dtype); };
  const auto operands = [=] { return make_operands(op, shape, dtype); };
  const auto wide = [=] {
    const Operands o = operands();
    return Operands{in_f64(o.inputs), in_f64(o.dys)};
  };
  const test::Costs cost = op.cost(Shape(shape), dtype);
  cases.push_back(
      {.name = op.name,
       .shape = text_of(shape),
       .pass = "forward",
       .dtype = dtype,
       .cost = cost.forward,
       .prepare = [=](Device device) { return forward_call(op, on_device(inputs(), device)); },
       .exact = [=] { return forward_call(op, in_f64(inputs()))(); }});
  cases.push_back(
      {.name = op.name,
       .shape = text_of(shape),
       .pass = "forward+backward",
       .dtype = dtype,
       .cost = cost.both,
       .prepare =
           [=](Device device) {
             const Operands o = operands();
             return both_call(op, {on_device(o.inputs, device), on_device(o.dys, device)});
           },
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
