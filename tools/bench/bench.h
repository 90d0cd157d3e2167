#pragma once
// Benchmarks of single kernels: the cases, one source per stem, and what all benchmarks share.
#include <functional>
#include <string>
#include <vector>

#include <olm/engine/json.h>
#include <olm/engine/random.h>
#include <olm/engine/tensor.h>

#include "tests/support/op_case.h"
#include "tools/bench/canary.h"
#include "tools/bench/roofline.h"

namespace olm::tools {

using test::Cost;

/// Of a series of numbers.
struct Spread {
  double median = 0, min = 0, max = 0;
};
/// Throws for an empty series.
Spread spread_of(std::vector<double> values);

/// To six significant digits, so that a small rate is never 0: what JSON shows of measured numbers.
double rounded(double value);

/// Flags as they came: f32 or bf16; 0 threads is what the library uses by itself.
DType bench_dtype(const std::string& name);
/// Sets the threads of the library too.
int bench_threads(int64_t threads);

/// Throws where put_json() could not write: better before the measuring than after it.
void require_writable(const std::string& json_path);
/// Writes `json` to a file on one line; "-" prints it, "" does nothing.
void put_json(const std::string& path, const Json& json);
/// Prints a line for readers: on stdout, unless JSON goes there.
void put_text(const std::string& json_path, const std::string& text);

/// Makes operands on a device and returns the call upon them.
using Prepare = std::function<std::function<Tensors()>(Device device)>;

/// A call that a case is compared with: both are timed by turns.
struct Beside {
  std::string name = {};
  Prepare prepare = {};
};

/// One measured call.
struct Case {
  std::string name = {};   ///< "gemm NT"
  std::string shape = {};  ///< "4096x2304x768"
  std::string pass = {};   ///< "forward", "forward+backward"
  DType dtype = f32;
  Cost cost = {};
  /// What a call returns is kept while it is cold, so that results too lie in memory that was not
  /// touched for long.
  Prepare prepare = {};
  /// For tests: what the first call returns, computed in f64 from the same operands, with every
  /// row_step-th row alone. Empty where there is no such thing.
  std::function<Tensors()> exact = {};
  int64_t row_step = 1;
  Beside beside = {};
};
using Cases = std::vector<Case>;
using Sizes = std::vector<int64_t>;
/// "4096x768".
std::string text_of(const Sizes& sizes);
/// Float tensors widened to f64.
Tensors in_f64(Tensors tensors);
Tensors on_device(Tensors tensors, Device device);

/// A benchmark by name: its axes, its shapes, and its cases for one of them. The tests check the
/// results of these cases, on these shapes and on `awkward` ones.
struct Bench {
  const char* name;
  const char* axes;
  /// About how many elements operands, results and gradients have together.
  double (*elements)(const Sizes& shape);
  std::vector<Sizes> shapes, awkward;
  void (*add)(Cases& cases, const Sizes& shape, DType dtype);
};

/// All benchmarks there are.
const std::vector<Bench>& benches();

void add_gemm(Cases&, const Sizes&, DType);
void add_flash_attention(Cases&, const Sizes&, DType);
void add_rms_norm(Cases&, const Sizes&, DType);
void add_layer_norm(Cases&, const Sizes&, DType);
void add_add_norm(Cases&, const Sizes&, DType);
void add_swiglu(Cases&, const Sizes&, DType);
void add_gelu(Cases&, const Sizes&, DType);
void add_softmax(Cases&, const Sizes&, DType);
void add_cross_entropy(Cases&, const Sizes&, DType);
void add_linear_cross_entropy(Cases&, const Sizes&, DType);
void add_embedding(Cases&, const Sizes&, DType);
void add_rope(Cases&, const Sizes&, DType);
void add_adamw(Cases&, const Sizes&, DType);
void add_muon(Cases&, const Sizes&, DType);
void add_generate(Cases&, const Sizes&, DType);
void add_moe_route(Cases&, const Sizes&, DType);
void add_moe_permute(Cases&, const Sizes&, DType);
void add_grouped_gemm(Cases&, const Sizes&, DType);
void add_moe_combine(Cases&, const Sizes&, DType);
void add_moe(Cases&, const Sizes&, DType);

/// Adds a case's forward without recording, and its forward with the gradients of its inputs, which
/// come first among the results. `shape` is what the case calls so. In f64 the op gets inputs of
/// that dtype.
void add_op(Cases& cases, const test::OpCase& op, const Sizes& shape, DType dtype);

}  // namespace olm::tools
