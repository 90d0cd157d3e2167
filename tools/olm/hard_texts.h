#pragma once
// Texts on which tokenizers and models of other programs went wrong.
#include <string>
#include <vector>

namespace olm::tools {

const std::vector<std::string>& hard_texts();

}  // namespace olm::tools
