// olm_conform: does the device do what ptx.cuh says of its instructions?
//
//   olm_conform                  compares with plain arithmetic
//   olm_conform --compare FILE   compares with what another device wrote
//   olm_conform --write FOLDER   writes FOLDER/conform.json too
//
// Status 0: all cases match; 1: some do not, or an error; 77: there is no device.
#include <cstdio>
#include <cstring>

#include <olm/engine/json.h>

#include "conform.h"

using namespace olm;
using namespace olm::conform;

namespace {

std::string to_hex(const Words& words) {
  std::string text;
  char digits[9];
  for (const uint32_t word : words) {
    std::snprintf(digits, sizeof digits, "%08x", unsigned(word));
    text += digits;
  }
  return text;
}

Words from_hex(const std::string& text, const std::string& what) {
  constexpr const char* kDigits = "0123456789abcdef";
  require(text.size() % 8 == 0 && text.find_first_not_of(kDigits) == std::string::npos, what,
          ": wants words of 8 hexadecimal digits");
  Words words;
  for (size_t i = 0; i < text.size(); i += 8)
    words.push_back(uint32_t(std::stoul(text.substr(i, 8), nullptr, 16)));
  return words;
}

struct Flags {
  std::string compare = {}, write = {};
};

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    require((name == "--compare" || name == "--write") && i + 1 < argc,
            "wants --compare FILE or --write FOLDER, got ", name);
    (name == "--compare" ? flags.compare : flags.write) = argv[i + 1];
  }
  return flags;
}

int run(const Flags& flags) {
  if (const std::string reason = why_no_device(); !reason.empty()) {
    std::fprintf(stderr, "olm_conform: %s\n", reason.c_str());
    return 77;
  }
  const Json file = flags.compare.empty() ? Json() : read_json(flags.compare);
  Json results = Json::object();
  int failed = 0;
  for (const Case& c : cases()) {
    const Words got = on_device(c, inputs_of(c));
    const Words wanted = flags.compare.empty()
                             ? reference_of(c)
                             : from_hex(file.at("cases").at(c.name).as_string(), c.name);
    const Comparison found = compare(c, got, wanted);
    failed += found.wrong > 0;
    std::printf("%-26s %5zu words, %lld wrong, largest difference %.2g\n", c.name, got.size(),
                static_cast<long long>(found.wrong), found.largest);
    results.append(c.name, to_hex(got));
  }
  if (!flags.write.empty()) {
    Json written = Json::object();
    written.append("device", device_name());
    written.append("cases", std::move(results));
    write_json(flags.write + "/conform.json", written);
  }
  std::printf("conform: %zu cases on %s against %s, %d differ\n", cases().size(),
              device_name().c_str(),
              flags.compare.empty() ? "plain arithmetic" : flags.compare.c_str(), failed);
  return failed > 0;
}

}  // namespace

int main(int argc, char** argv) try { return run(parse(argc, argv)); } catch (const Error& error) {
  std::fprintf(stderr, "olm_conform: %s\n", error.what());
  return 1;
}
