#pragma once
// The components of OpenLanguageModel's guides, and what each of them does here.
#include <string>
#include <vector>

namespace olm::test {

/// What a component was seen to do. "yes", "no"; of the fixture the largest relative L2 error of
/// result and gradients, with the fixture's name where it is another layer's, or "none".
struct ComponentFacts {
  std::string name = {}, forward = {}, backward = {}, cache = {}, f32 = {}, bf16 = {}, fixture = {};
  double fixture_error = 0;
};

/// Every component in the order of the guides, run now.
std::vector<ComponentFacts> run_components();
/// docs/components.md.
std::string components_page(const std::vector<ComponentFacts>& facts);

}  // namespace olm::test
