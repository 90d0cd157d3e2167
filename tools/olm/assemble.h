#pragma once
// The configuration of a run from what `olm train` was told.
#include <string>
#include <utility>

#include "tools/olm/commands.h"

namespace olm::tools {

/// Preset, then file, then flags; where weights come from another run, its [model] and tokenizer
/// come right after the preset. With --resume the run's own run.toml is all there is below the
/// flags, and flags that would make it another run are refused. Throws for what cannot be.
RunConfig assemble(const TrainArgs& args);

/// The folder a new run goes to where none was named: runs/NAME, runs/NAME-2, ….
std::string default_folder(const TrainArgs& args);
/// Throws where `folder` holds a run or what is left of one.
void require_no_run(const std::string& folder);

/// Holds a run folder, which is there, for one process as long as it lives.
class RunLock {
 public:
  RunLock() = default;
  /// Throws where another process holds the folder.
  explicit RunLock(const std::string& folder);
  RunLock(RunLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  RunLock& operator=(RunLock&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~RunLock();

 private:
  int file_ = -1;
};

}  // namespace olm::tools
