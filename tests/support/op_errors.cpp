#include <tests/support/op_errors.h>

#include <map>
#include <set>

#include <tests/support/markdown.h>
#include <tests/support/op_suite.h>

namespace olm::test {
namespace {

struct Part {
  std::string name = {};
  DType dtype = f32;
  OpPart part = OpPart::forward;
  auto operator<=>(const Part&) const = default;
};

std::map<Part, double>& recorded() {
  static std::map<Part, double> all;
  return all;
}

std::string cell(const OpCase& c, DType dtype, OpPart part) {
  const auto found = recorded().find({c.name, dtype, part});
  if (found != recorded().end()) return one_digit(found->second);
  require(part == OpPart::backward && c.unasked.contains(Question::gradients), c.name, ": no ",
          part == OpPart::forward ? "result" : "gradient", " in ", dtype, " was compared");
  return "none";
}

}  // namespace

void record_op_error(const std::string& name, DType dtype, OpPart part, double error) {
  const auto [at, added] = recorded().try_emplace({name, dtype, part}, error);
  if (!added && !(error <= at->second)) at->second = error;  // NaN stays
}

std::string cuda_page() {
  std::string out =
      "# Operations on CUDA\n\n"
      "Every case of the op suites (`tests/support/cases/`) on the device `cuda`, with its largest "
      "relative L2\nerror against f64 on the CPU over all sizes and layouts that the suites try, "
      "to "
      "one digit; \"none\" where\nthe op has no derivative. Made by `cmake --build build/emulate "
      "--target olm_cuda_page`, where the emulator\nruns the kernels; tensor cores of a card add "
      "in "
      "another order.\n\n"
      "| case | suite | f32 forward | backward | bf16 forward | backward | f16 forward | backward "
      "|\n"
      "|---|---|---|---|---|---|---|---|\n";
  std::set<std::string> seen;
  for (const OpSuite& suite : op_suites())
    for (const OpCase& c : suite.cases()) {
      if (!seen.insert(c.name).second) continue;
      out += "| `" + c.name + "` | " + suite.name;
      for (const DType dtype : {f32, bf16, f16})
        for (const OpPart part : {OpPart::forward, OpPart::backward})
          out += " | " + cell(c, dtype, part);
      out += " |\n";
    }
  return out;
}

}  // namespace olm::test
