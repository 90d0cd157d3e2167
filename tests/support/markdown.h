#pragma once
// Tables of the pages in docs/.
#include <cstdio>
#include <string>
#include <vector>

namespace olm::test {

/// One digit of an error, on which machines agree but for its last unit.
inline std::string one_digit(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0e", value);
  return value == 0 ? "0" : text;
}

/// The cells of the rows whose first cell is code, `like this`.
inline std::vector<std::vector<std::string>> table_rows(const std::string& page) {
  std::vector<std::vector<std::string>> rows;
  for (size_t at = page.find("\n| `"); at != std::string::npos; at = page.find("\n| `", at + 1)) {
    const std::string line = page.substr(at + 1, page.find('\n', at + 1) - at - 1);
    std::vector<std::string> cells;
    for (size_t begin = 2; begin < line.size();) {
      const size_t end = line.find(" |", begin);
      cells.push_back(line.substr(begin, end - begin));
      begin = end + 3;
    }
    rows.push_back(cells);
  }
  return rows;
}

}  // namespace olm::test
