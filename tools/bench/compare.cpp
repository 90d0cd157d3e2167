// olm bench compare: two files of figures, case by case.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>

#include "tools/bench/bench.h"
#include "tools/olm/commands.h"

namespace olm::tools {

namespace {

/// Times by case, in the order of the file: microseconds of kernels, milliseconds of a step.
using Times = std::vector<std::pair<std::string, double>>;

Times read_times(const std::string& path) {
  const Json json = read_json(path);
  try {
    const std::string what = json.at("what").as_string();
    Times times;
    const auto add = [&](const std::string& name, double us) {
      require(std::isfinite(us) && us > 0, "\"", name, "\" took ", us, " us");
      times.emplace_back(name, us);
    };
    if (what == "olm_train_step") {
      add(fmt::format("step {} {}, threads: {}{}", json.at("config").as_string(),
                      json.at("dtype").as_string(), json.at("threads").as_int(),
                      json.at("recompute").as_bool() ? ", recomputing" : ""),
          1e3 * json.at("step_ms").as_double());
      return times;
    }
    require(what == "olm_bench", "is of \"", what, "\"");
    for (const Json& c : json.at("cases").items())
      add(c.at("case").as_string(), c.at("us").as_double());
    return times;
  } catch (const Error& e) {
    throw FileError(path, ": is no file of olm bench: ", e.what());
  }
}

double parse_percent(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  require(error == std::errc() && value >= 0 && (rest == end || std::string(rest, end) == "%"),
          "--fail-over: wants a percentage such as 5%, got \"", text, "\"");
  return value;
}

}  // namespace

int bench_compare(const BenchCompareArgs& args) {
  const double percent = parse_percent(args.fail_over);
  const Times before = read_times(args.before), after = read_times(args.after);
  std::map<std::string, double> rest(after.begin(), after.end());
  int64_t joined = 0, slower = 0;
  for (const auto& [name, us] : before) {
    const auto found = rest.find(name);
    if (found == rest.end()) {
      fmt::print("{:<70} only in {}\n", name, args.before);
      continue;
    }
    const double ratio = found->second / us;
    const bool bad = ratio > 1 + percent / 100;
    ++joined;
    slower += bad;
    fmt::print("{:<70} {:>12.1f} us -> {:>12.1f} us  {:.3f}{}\n", name, us, found->second, ratio,
               bad ? "  SLOWER" : "");
    rest.erase(found);
  }
  for (const auto& [name, us] : rest) fmt::print("{:<70} only in {}\n", name, args.after);
  require(joined > 0, args.before, " and ", args.after, " have no case in common");
  fmt::print("{} of {} cases are slower by more than {:g} %\n", slower, joined, percent);
  return slower > 0 ? 1 : 0;
}

}  // namespace olm::tools
