#pragma once
// What docs/hub.md says of models of other programs, as it is seen here.
#include <string>
#include <vector>

namespace olm::test {

/// A fixture on its ways: each an error, or a word.
struct HubCase {
  std::string name = {}, family = {};
  std::string hf_in = {}, hf_out = {}, gguf_in = {}, gguf_out = {}, trained = {};
  std::string refusal = {};  ///< why it cannot be written as GGUF; "" where it can
};
std::vector<HubCase> run_hub_cases();

/// A key of config.json: what it is, and the families that have it.
struct HubKey {
  std::string name, meaning, families;
};
std::vector<HubKey> hub_keys();

/// A part of tokenizer.json, and whether it is read.
struct HubComponent {
  std::string name, where, read;
};
std::vector<HubComponent> hub_components();

/// docs/hub.md.
std::string hub_page(const std::vector<HubCase>& cases);

}  // namespace olm::test
