#pragma once
// Pages of HTML without anything from outside, and what stands on them.
#include <string>
#include <vector>

#include <olm/engine/json.h>

#include "tools/olm/chart.h"
#include "tools/olm/machine.h"

namespace olm::tools {

/// The page: `name` as its heading, below it what `kind` of page it is and today's date.
std::string html_page(const std::string& name, const std::string& kind, const std::string& body);
std::string card(const Chart& chart, const char* extra = "");
std::string table(const Facts& facts);
/// A table with a head: its first row.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// Lines of a log; none where there is no file.
std::vector<Json> read_lines(const std::string& path);
/// The points (line[x], line[key]) of the lines that have both.
std::vector<Point> points(const std::vector<Json>& lines, const char* key, const char* x = "step");

}  // namespace olm::tools
