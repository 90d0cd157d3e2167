#pragma once
// What all benchmarks share: spreads of samples, and their results as JSON.
#include <string>
#include <vector>

#include <olm/engine/json.h>
#include <olm/kernels/base/types.h>

#include "tools/bench/canary.h"

namespace olm::tools {

/// Of a series of numbers.
struct Spread {
  double median = 0, min = 0, max = 0;
};
/// Throws for an empty series.
Spread spread_of(std::vector<double> values);

/// To so many decimal places: what JSON shows of measured numbers.
double rounded(double value, int places);

/// Flags as they came: f32 or bf16; 0 threads is what the library uses by itself.
DType bench_dtype(const std::string& name);
/// Sets the threads of the library too.
int bench_threads(int64_t threads);

/// Writes `json` to a file on one line; "-" prints it, "" does nothing.
void put_json(const std::string& path, const Json& json);
/// Prints a line for readers: on stdout, unless JSON goes there.
void put_text(const std::string& json_path, const std::string& text);

}  // namespace olm::tools
