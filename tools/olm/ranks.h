#pragma once
// The processes that mpirun or srun started with this one, as a command sees them.
#include <string>

#include "tools/olm/config.h"

namespace olm::tools {

/// What a launcher wrote into the environment; it is known before the ranks have joined.
struct Launch {
  int ranks = 1, rank = 0;
  std::string launcher = {};       ///< "srun"; empty for a process alone
  std::string command = "mpirun";  ///< what starts ranks here, as it is typed before -n
};
Launch launch();

/// True on the rank that prints and writes: the first, also where they have not joined.
bool is_first_rank();
/// The text of the first rank, on all; a collective operation.
std::string from_first_rank(const std::string& text);
/// Joins the ranks of dist::init(). Those that wait for one that prepares data wait for hours.
void join_ranks();
/// Once all is prepared: a rank that is waited for has as long as the configuration says.
void limit_waiting(const RunConfig& config);

/// Throws where ranks disagree on the version, on going on or a key of the configuration, and names
/// it. What is a machine's own (threads, where its copy of the text lies) may differ.
void require_same_config(RunConfig config, bool resumed);
/// Threads for a rank that shares its cores with others of its machine, as the scheduler lets them
/// run: cores by ranks. Nothing happens where the user named a number.
void share_cores(const TrainConfig& config);
/// The device `text` of this rank: with "cuda" each rank of a machine takes a card of its own.
Device device_of_rank(const std::string& text);

/// "4 on 2 machines, Open MPI 4.1.4; micro-batches 8, 2 each; …".
std::string ranks_text(const RunConfig& config);
/// `command` under the launcher and on as many ranks as now: "mpirun -n 4 olm …".
std::string launched(const std::string& command);

}  // namespace olm::tools
