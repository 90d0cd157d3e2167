#pragma once
// What several runs have come to, side by side: as text, CSV, JSON and a page.
#include <cstdint>
#include <string>
#include <vector>

namespace olm::tools {

struct Comparison {
  /// A run in `folder`/name, and what its log does not tell.
  struct Entry {
    std::string name = {};
    int64_t parameters = 0;
    double flops_per_token = 0, memory = 0;  ///< of training; bytes
    int64_t total_steps = 0;
  };
  std::string folder = {};
  std::vector<Entry> entries = {};

  /// What write() left in a folder; throws where that is nothing.
  static Comparison read(const std::string& folder);
  /// results.json, results.csv and report.html from the runs' logs.
  void write() const;
  /// True for the names of these.
  static bool is_file(const std::string& name);
  /// The table for people.
  std::string text() const;
};

}  // namespace olm::tools
