#pragma once
// The folder of a run: which one, whose it is, and what lies in it.
#include <string>
#include <utility>

#include "tools/olm/commands.h"

namespace olm::tools {

/// The folder a new run goes to where none was named: runs/NAME, runs/NAME-2, ….
std::string default_folder(const TrainArgs& args);
/// Throws where the run in `folder` has no checkpoint, and says how to begin it anew.
void require_checkpoint(const std::string& folder);
/// Throws where `folder` holds a run or what is left of one. A run that ended before its first step
/// leaves nothing but its configuration, which is no obstacle.
void require_no_run(const std::string& folder);
/// Removes what a process that ended in the middle left in `folder`: files that never got their
/// names, and, with `logs`, the logs of a run that made no step.
void remove_leftovers(const std::string& folder, bool logs);
/// The newest checkpoint's weights under the name by which a finished model is found.
void publish(const std::string& folder, const std::string& checkpoint);

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
