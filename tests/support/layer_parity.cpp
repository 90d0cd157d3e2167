#include <tests/support/layer_parity.h>

#include <cmath>

#include <doctest/doctest.h>

#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/parity.h>

namespace olm::test {
namespace {

using Named = std::map<std::string, Tensor>;
constexpr double kTolerance = 1e-5;

/// The tensors of one case, without its name in front.
Named tensors_of(const std::string& name, const std::string& file_name) {
  static std::map<std::string, SafetensorsFile> files;
  const std::string path = fixture(file_name);
  auto found = files.find(path);
  if (found == files.end()) found = files.emplace(path, SafetensorsFile::open(path)).first;
  const SafetensorsFile& file = found->second;
  Named result;
  for (const std::string& key : file.names())
    if (key.starts_with(name + "/"))
      result[key.substr(name.size() + 1)] = raw::clone(on_test_device(file.tensor(key)));
  REQUIRE_MESSAGE(!result.empty(), "no fixture called " << name);
  return result;
}

/// Members whose names begin with `prefix`, without it.
Named below(const Named& tensors, const std::string& prefix) {
  Named result;
  for (const auto& [key, tensor] : tensors)
    if (key.starts_with(prefix)) result[key.substr(prefix.size())] = tensor;
  return result;
}

/// Relative L2; gradients that cancel to zero (a key's bias under softmax) are held against 0.1.
double error_of(const Tensor& got, const Tensor& wanted) {
  REQUIRE(got.defined());
  REQUIRE(got.shape() == wanted.shape());
  std::vector<double> difference = to_host<double>(got);
  const std::vector<double> reference = to_host<double>(wanted);
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= reference[i];
  return norm(difference) / std::max(norm(reference), 0.1);
}

/// Runs a layer as its fixture says, and tells `visit` what each comparison is of and its error.
template <class Visit>
void for_each_error(const std::string& name, nn::Module& layer, const std::string& file,
                    const Visit& visit) {
  const auto compare = [&](FixturePart part, const std::string& what, double error) {
    record_fixture({file, name}, part, error, kTolerance);
    visit(name + " " + what, error);
  };
  const Named tensors = tensors_of(name, file);
  layer.load_state_dict(below(tensors, "param/"));
  layer.to(test_device());
  nn::Context ctx;
  if (tensors.count("mask")) ctx.mask = tensors.at("mask");
  if (tensors.count("seq_positions")) ctx.positions = tensors.at("seq_positions");
  if (tensors.count("documents")) ctx.documents = tensors.at("documents");
  const Tensor x = tensors.at("x");
  if (is_float(x.dtype())) set_requires_grad(x);
  const Tensor y = layer.forward(x, ctx);
  compare(FixturePart::output, "y", error_of(y, tensors.at("y")));
  if (!requires_grad(y)) return;
  backward(y, {.gradient = tensors.at("dy")});
  if (tensors.count("dx"))
    compare(FixturePart::gradient, "dx", error_of(grad(x), tensors.at("dx")));
  for (const auto& [key, wanted] : below(tensors, "grad/"))
    compare(FixturePart::gradient, "gradient of " + key,
            error_of(grad(layer.parameter(key).tensor()), wanted));
  for (const auto& [key, parameter] : layer.named_parameters())
    if (const Tensor g = grad(parameter); g.defined() && !tensors.count("grad/" + key)) {
      // Where the host does not know which experts have rows, those without any get zeros.
      const bool zeros = test_device() != cpu && norm(to_host<double>(g)) == 0;
      CHECK_MESSAGE(zeros, name << " has a gradient of " << key);
    }
}

}  // namespace

void check_layer_parity(const std::string& name, nn::Module& layer, const std::string& file) {
  INFO(name);
  for_each_error(name, layer, file, [](const std::string& what, double error) {
    INFO(what);
    CHECK(error <= kTolerance);
  });
}

double layer_parity_error(const std::string& name, nn::Module& layer, const std::string& file) {
  double largest = 0;
  for_each_error(name, layer, file, [&](const std::string&, double error) {
    largest = error <= largest ? largest : error;  // NaN counts
  });
  return largest;
}

}  // namespace olm::test
