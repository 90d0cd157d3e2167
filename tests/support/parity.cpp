#include <tests/support/checks.h>
#include <tests/support/parity.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include <doctest/doctest.h>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <tests/support/fixture_errors.h>

namespace olm::test {
namespace {

/// One case of a file.
struct Case {
  std::string file;
  Tensors inputs, grads;  ///< grads: one per input, undefined where it gets none
  Tensor out, dy;
};

Case read_case(const SafetensorsFile& file, const std::string& name) {
  const auto find = [&](const std::string& what) {
    const std::string key = name + "/" + what;
    return file.contains(key) ? file.tensor(key) : Tensor();
  };
  Case c{.file = {}, .inputs = {}, .grads = {}, .out = find("out"), .dy = find("dy")};
  for (;;) {
    const std::string i = std::to_string(c.inputs.size());
    const Tensor x = find("in" + i);
    if (!x.defined()) return c;
    c.inputs.push_back(x);
    c.grads.push_back(find("grad" + i));
  }
}

double longest_dimension(const Case& c) {
  int64_t longest = 1;
  for (const Tensor& x : c.inputs)
    for (const int64_t size : x.shape().span()) longest = std::max(longest, size);
  return double(longest);
}

/// x for an op in `dtype`, on the device under test.
Tensor as(const Tensor& x, DType dtype) {
  const Tensor y = raw::clone(is_float(x.dtype()) ? raw::cast(x, dtype) : x);
  return dtype == f64 ? y : on_test_device(y);
}

/// Checks a value or gradient; that of f32 is recorded.
void check_float(const Tensor& got, const Tensor& wanted, const Case& c, const ParityRow& row,
                 const std::string& what, FixturePart part) {
  if (got.dtype() == f64) {
    // The fixture is the exact result rounded once to f32.
    const Difference d = difference(got, wanted);
    CHECK_MESSAGE(d.relative_l2 <= 0x1.01p-24, what, ": relative L2 ", d.relative_l2);
    return;
  }
  const double length = row.sums.length > 0 ? row.sums.length : longest_dimension(c);
  const Compared compared = check_close(got, wanted, f32, length, what, row.sums.cancelling);
  record_fixture({c.file, row.name}, part, compared.error, compared.tolerance);
}

void check_row(const Case& c, const ParityRow& row, DType dtype) {
  const std::string what = row.name + " in " + name_of(dtype);
  INFO(what);
  Tensors inputs;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    inputs.push_back(as(c.inputs[i], dtype));
    if (c.grads[i].defined()) set_requires_grad(inputs.back());
  }
  const Tensor y = row.op(inputs);
  REQUIRE_MESSAGE(y.shape() == c.out.shape(), what, ": shapes ", y.shape(), " and ", c.out.shape());
  if (!is_float(c.out.dtype())) {
    CHECK_MESSAGE(y.dtype() == c.out.dtype(), what, ": dtype ", y.dtype());
    const bool same = to_host<int64_t>(y) == to_host<int64_t>(c.out);
    CHECK_MESSAGE(same, what, ": values differ");
    record_fixture({c.file, row.name}, FixturePart::output, same ? 0 : 1, 0);
    return;
  }
  CHECK_MESSAGE(y.dtype() == dtype, what, ": dtype ", y.dtype());
  check_float(y, c.out, c, row, what + " value", FixturePart::output);
  if (!c.dy.defined()) return;
  backward(y, {.gradient = as(c.dy, dtype)});
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!c.grads[i].defined()) continue;
    const std::string gradient = what + " gradient " + std::to_string(i);
    REQUIRE_MESSAGE(grad(inputs[i]).defined(), gradient, " is missing");
    check_float(grad(inputs[i]), c.grads[i], c, row, gradient, FixturePart::gradient);
  }
}

}  // namespace

std::string fixture(const std::string& file) {
  const char* folder = std::getenv("OLM_FIXTURES");
  return std::string(folder ? folder : OLM_FIXTURES) + "/" + file;
}

void check_parity(const std::string& file, const ParityTable& rows) {
  const SafetensorsFile cases = SafetensorsFile::open(fixture(file));
  for (const ParityRow& row : rows) {
    Case c = read_case(cases, row.name);
    c.file = file;
    CHECK_MESSAGE(c.out.defined(), file, " has no case ", row.name);
    if (!c.out.defined()) continue;
    for (const DType dtype : {f32, f64}) check_row(c, row, dtype);
  }
}

void check_complete(const std::string& file, const std::vector<ParityTable>& tables) {
  std::map<std::string, int> rows;
  for (const ParityTable& table : tables)
    for (const ParityRow& row : table) ++rows[row.name];
  for (const auto& [name, count] : rows)
    CHECK_MESSAGE(count == 1, name, " has ", count, " rows in the tables");
  const SafetensorsFile cases = SafetensorsFile::open(fixture(file));
  for (const std::string& key : cases.names()) {
    if (!key.ends_with("/out")) continue;
    const std::string name = key.substr(0, key.size() - 4);
    CHECK_MESSAGE(rows.count(name) == 1, file, " holds ", name, ", which no table computes");
  }
}

}  // namespace olm::test
