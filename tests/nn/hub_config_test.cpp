// config.json of every family that is read: to a configuration, and back.
#include <doctest/doctest.h>

#include <filesystem>

#include <olm/engine/file.h>
#include <olm/nn/hub/config_internal.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/models.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::hub;
using namespace olm::test;

namespace {

const std::string kHub = std::string(OLM_FIXTURES) + "/hub";

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kHub))
    if (std::filesystem::exists(entry.path() / "config.json"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string text_of(const std::string& name) { return read_file(kHub + "/" + name + "/config.json"); }
Json config_of(const std::string& name) { return Json::parse(text_of(name)); }

/// A configuration of a case with other values; a key with null text is taken out.
Json changed(const std::string& name, const std::string& key, const char* value) {
  const Json before = config_of(name);
  Json json = Json::object();
  for (const auto& [other, old] : before.members())
    if (other != key) json[other] = old;
  if (value) json[key] = Json::parse(value);
  return json;
}

DecoderConfig read(const Json& json) { return config_from_json(json).config; }

void refuse(const std::string& name, const std::string& key, const char* value,
            std::vector<std::string> parts) {
  INFO(name, " ", key, " ", value ? value : "absent");
  parts.push_back(key);
  check_error([&] { config_from_json(changed(name, key, value)); }, parts);
}

}  // namespace

TEST_SUITE("nn/hub_config") {
  TEST_CASE("what is understood survives reading and writing, digit by digit and in its order") {
    REQUIRE(cases().size() >= 18);
    for (const std::string& name : cases()) {
      INFO(name);
      const std::string text = text_of(name);
      const Json before = Json::parse(text);
      const ReadConfig read = config_from_json(before);
      const Json after = config_to_json(read.config, family_of(read.family), before);
      auto at = after.members().begin();
      for (const auto& [key, value] : before.members()) {
        CHECK_MESSAGE(at->first == key, key);
        CHECK_MESSAGE(at->second == value, key);
        const std::string line = text.substr(text.find("\"" + key + "\":"));
        if (!value.is_object() && !value.is_array())
          CHECK(text_like(after, text).find(line.substr(0, line.find_first_of(",\n"))) !=
                std::string::npos);
        ++at;
      }
      if (read.config.positions == "rope")
        for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"})
          CHECK_MESSAGE(after.contains(key), key);
      CHECK(config_from_json(after).config.given() == read.config.given());
      CHECK(Json::parse(text_like(after, text)) == after);
      CHECK(config_to_json(read.config, family_of(read.family), after) == after);
    }
  }

  TEST_CASE("written without a file before it, each says the same") {
    for (const std::string& name : cases()) {
      INFO(name);
      const ReadConfig read = config_from_json(config_of(name));
      const Json fresh = config_to_json(read.config, family_of(read.family), Json());
      const ReadConfig again = config_from_json(fresh);
      CHECK(again.config.normalized().given() == read.config.normalized().given());
      CHECK(again.not_understood == std::vector<std::string>{});
      CHECK(std::string(family_for(read.config, "").model_type).size() > 0);
    }
  }
}
