#pragma once
// report.html: one page about a run, without anything from outside.
#include <string>

#include "tools/olm/machine.h"

namespace olm::tools {

/// Writes `folder`/report.html from metrics.jsonl, samples.jsonl and run.toml there. `about` are
/// facts of the run (parameters, memory, …), `machine` those of the machine.
void write_report(const std::string& folder, const Facts& about, const Facts& machine);

}  // namespace olm::tools
