#include <tests/support/fixture_errors.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include <olm/engine/safetensors.h>
#include <tests/support/markdown.h>

namespace olm::test {
namespace {

/// The largest error of one part, and what it may be at most.
struct Recorded {
  double error = 0, tolerance = 0;
  bool any = false;
};

std::map<FixtureCase, std::map<FixturePart, Recorded>>& recorded() {
  static std::map<FixtureCase, std::map<FixturePart, Recorded>> all;
  return all;
}

/// What computed the cases that begin with `name` in the files that begin with `file`; the first
/// row that fits holds.
struct Maker {
  const char *file, *name, *program;
};
constexpr Maker kMakers[] = {
    {"activations.", "ClassicFFN.gelu_tanh", "PyTorch"},
    {"activations.", "ClassicFFN.quick_gelu", "PyTorch"},
    {"activations.", "ClassicFFN.relu_squared", "PyTorch"},
    {"activations.", "GatedFFN.", "PyTorch"},
    {"activations.", "activation.gelu_tanh", "PyTorch"},
    {"activations.", "activation.quick_gelu", "PyTorch"},
    {"activations.", "activation.relu_squared", "PyTorch"},
    {"activations.", "", "OpenLanguageModel"},
    {"attention_layers.", "DeepseekV3", "transformers"},
    {"attention_layers.", "", "OpenLanguageModel"},
    {"curves_", "", "PyTorch"},
    {"family_hf_", "", "transformers"},
    {"family_", "", "OpenLanguageModel"},
    {"layers.", "", "OpenLanguageModel"},
    {"moe.", "MoERouter.", "transformers"},
    {"moe.", "SwiGLUMoEFFN.deepseek_v3", "transformers"},
    {"moe.", "load_balancing_loss.", "transformers"},
    {"moe.", "router_z_loss", "transformers"},
    {"moe.", "", "OpenLanguageModel"},
    {"ops.", "", "PyTorch"},
    {"optim.", "lion", "formula (arXiv:2302.06675)"},
    {"optim.", "muon_pytorch", "PyTorch"},
    {"optim.", "muon", "formula (Jordan et al. 2024)"},
    {"optim.", "", "PyTorch"},
    {"positions.", "olm.", "OpenLanguageModel"},
    {"positions.", "hf", "transformers"},
    {"positions.", "xpos.", "formula (arXiv:2212.10554)"},
    {"sampling.", "", "transformers"},
    {"structures.", "", "OpenLanguageModel"},
};

/// The case that a tensor belongs to; "" for one that several share.
std::string case_of(const std::string& stem, const std::string& tensor) {
  for (const char* whole : {"family_", "curves_"})
    if (stem.starts_with(whole)) return stem.substr(std::string(whole).size());
  if (stem != "optim") return tensor.substr(0, tensor.find('/'));
  const std::string name = tensor.substr(0, tensor.find('.'));
  return name == "initial" || name == "grad" ? "" : name;
}

}  // namespace

std::vector<FixtureCase> fixture_cases() {
  std::set<FixtureCase> cases;
  for (const auto& entry : std::filesystem::directory_iterator(OLM_FIXTURES)) {
    const std::filesystem::path& path = entry.path();
    if (path.extension() != ".safetensors") continue;
    const SafetensorsFile file = SafetensorsFile::open(path.string());
    for (const std::string& tensor : file.names()) {
      const std::string name = case_of(path.stem().string(), tensor);
      if (!name.empty()) cases.insert({path.filename().string(), name});
    }
  }
  return {cases.begin(), cases.end()};
}

std::string maker_of(const FixtureCase& fixture) {
  const auto found = std::find_if(std::begin(kMakers), std::end(kMakers), [&](const Maker& m) {
    return fixture.file.starts_with(m.file) && fixture.name.starts_with(m.name);
  });
  require(found != std::end(kMakers), fixture.file, " ", fixture.name,
          ": no row in tests/support/fixture_errors.cpp says what computed it");
  return found->program;
}

void record_fixture(const FixtureCase& fixture, FixturePart part, double error, double tolerance) {
  Recorded& r = recorded()[fixture][part];
  r.error = r.any && error <= r.error ? r.error : error;  // NaN stays
  r.tolerance = std::max(r.tolerance, tolerance);
  r.any = true;
}

std::string fixtures_page() {
  std::string out =
      "# Fixtures\n\n"
      "Every case of `tests/fixtures/*.safetensors`: what computed it, and how far libolm is from "
      "it on f32\ninputs, as the tests measure it; made by "
      "`cmake --build build/release --target olm_fixtures`.\n\n"
      "- outputs, gradients: the largest error of any of them, to one digit; empty where the "
      "fixture has\n  none. Relative L2 of layers, ops and optimizers; of families and curves "
      "also of the loss, of\n  families the largest error of a logit over the largest logit, of "
      "sampling that of a probability.\n"
      "- tolerance: what the tests allow, of outputs and, where it differs, of gradients.\n\n"
      "| file | case | computed by | outputs | gradients | tolerance |\n"
      "|---|---|---|---|---|---|\n";
  for (const FixtureCase& c : fixture_cases()) {
    auto& parts = recorded()[c];
    const Recorded output = parts[FixturePart::output], gradient = parts[FixturePart::gradient];
    require(output.any, c.file, " ", c.name, ": no test recorded an error of it");
    std::string tolerance = one_digit(output.tolerance);
    if (gradient.any && gradient.tolerance != output.tolerance)
      tolerance += ", " + one_digit(gradient.tolerance);
    out += "| `" + c.file + "` | `" + c.name + "` | " + maker_of(c) + " | " +
           one_digit(output.error) + " | " + (gradient.any ? one_digit(gradient.error) : "") +
           " | " + tolerance + " |\n";
  }
  return out;
}

}  // namespace olm::test
