#include "tools/olm/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include <olm/engine/file.h>
#include <olm/nn/training.h>

#include "tools/olm/command_line.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

constexpr const char* kLogs[] = {"/metrics.jsonl", "/samples.jsonl"};

/// True where a step, and not what comes before the first one, is in a log.
bool holds_steps(const std::string& log) {
  if (!file_exists(log)) return false;
  try {
    for (const Json& line : nn::JsonLines::read(log))
      if (line.at("step").as_int() > 0) return true;
  } catch (const Error&) {
    return true;
  }
  return false;
}

constexpr const char* kPublishing = "model.safetensors.tmp";

/// A name that publish() or FileWriter (NAME.tmp-PROCESS-NUMBER) gives to a file in the making.
bool is_unfinished(const std::string& name) {
  const size_t at = name.rfind(".tmp-");
  if (at == std::string::npos) return name == kPublishing;
  const size_t dash = name.find('-', at + 5);
  return dash != std::string::npos && dash + 1 < name.size() &&
         name.find_first_not_of("-0123456789", at + 5) == std::string::npos;
}

}  // namespace

std::string default_folder(const TrainArgs& args) {
  const std::string base = "runs/" + (args.preset.empty() ? std::string("run") : args.preset);
  std::string folder = base;
  for (int i = 2; fs::exists(folder); ++i) folder = base + "-" + std::to_string(i);
  return folder;
}

void require_no_run(const std::string& folder) {
  const bool resumable = !nn::Checkpoints(folder).steps().empty();
  bool used = resumable;
  for (const char* name : {"/model.safetensors", "/metrics.csv", "/report.html"})
    used = used || file_exists(folder + name);
  // Without the lock that every run makes first, these were put here by somebody else.
  const bool ours = file_exists(folder + "/.lock");
  for (const char* name : {"/model.json", "/run.toml"})
    used = used || (!ours && file_exists(folder + name));
  for (const char* name : kLogs)
    used = used || (ours ? holds_steps(folder + name) : file_exists(folder + name));
  if (!used) return;
  if (resumable)
    throw FileError(folder, ": holds a run already; go on with it by: olm train --resume ",
                    shell_word(folder), ", or name another folder with --out");
  throw FileError(folder,
                  ": holds a run already, without a checkpoint to go on from; remove it or ",
                  "name another folder with --out");
}

void require_checkpoint(const std::string& folder) {
  if (!nn::Checkpoints(folder).steps().empty()) return;
  throw FileError(folder,
                  ": holds no checkpoint to resume from; begin anew with its configuration ",
                  "(a lower --lr, if it diverged) by: olm train --config ",
                  shell_word(folder + "/run.toml"), " --out ", shell_word(folder + "-2"));
}

void remove_leftovers(const std::string& folder, bool logs) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end;) {
    const fs::directory_entry entry = *at;
    at.increment(error);
    std::error_code gone;
    if (entry.is_regular_file(gone) && is_unfinished(entry.path().filename().string()))
      remove_all(entry.path().string());
  }
  for (const char* name : kLogs)
    if (logs) remove_all(folder + name);
}

void publish(const std::string& folder, const std::string& checkpoint) {
  const std::string from = checkpoint + "/model.safetensors", to = folder + "/model.safetensors";
  const std::string aside = folder + "/" + kPublishing;
  std::error_code error;
  fs::remove(aside, error);
  fs::create_hard_link(from, aside, error);
  if (error) {  // a file system without links
    write_file(to, MappedFile::open(from)->text());
    return;
  }
  move_into_place(aside, to);
  fs::remove(aside, error);  // still there where both were links to one file already
}

RunLock::RunLock(const std::string& folder) {
  const std::string path = folder + "/.lock";
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0)
    throw FileError(path, ": cannot be opened: ", std::generic_category().message(errno));
  // A file system that knows no locks answers with other errors, and is used without.
  if (::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(file_);
  throw FileError(folder, ": another process is training in this folder");
}

RunLock::~RunLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace olm::tools
