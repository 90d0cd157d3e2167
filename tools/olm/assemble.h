#pragma once
// The configuration of a run from what `olm train` was told.
#include "tools/olm/commands.h"

namespace olm::tools {

/// Preset, then file, then flags; where weights come from another run, its [model] and tokenizer
/// come right after the preset. With --resume the run's own run.toml is all there is below the
/// flags, and flags that would make it another run are refused. Throws for what cannot be.
RunConfig assemble(const TrainArgs& args);

}  // namespace olm::tools
