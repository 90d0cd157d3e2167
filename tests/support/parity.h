#pragma once
// Ops against what PyTorch computes: a fixture file of cases and a table of calls.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/tensor.h>

namespace olm::test {

/// Path of a committed fixture file, in the folder OLM_FIXTURES of the environment where that is
/// set.
std::string fixture(const std::string& file);

/// What the tolerance of a case is made from, as in OpCase.
struct Sums {
  double length = 0;      ///< of the longest sum inside; 0: the longest dimension of the inputs
  double cancelling = 0;  ///< typical size of terms that cancel inside
};

/// How this library computes a case of the fixture file.
struct ParityRow {
  using Op = std::function<Tensor(const Tensors&)>;
  ParityRow(std::string name, Op op) : ParityRow(std::move(name), {}, std::move(op)) {}
  ParityRow(std::string name, Sums sums, Op op)
      : name(std::move(name)), sums(sums), op(std::move(op)) {}
  std::string name;
  Sums sums;
  Op op;
};
using ParityTable = std::vector<ParityRow>;

/// Runs every row on its case's inputs and checks value and gradients: in f32 within what
/// check_close allows, in f64 within the rounding of the stored results, integers and booleans
/// exactly. A row without a case in the file fails.
void check_parity(const std::string& file, const ParityTable& rows);

/// Checks that every case of the file has exactly one row in the tables.
void check_complete(const std::string& file, const std::vector<ParityTable>& tables);

}  // namespace olm::test
