#pragma once
// One run of training: what it is made of, and the files of its folder.
#include <memory>
#include <string>

#include <olm/nn/expert_parallel.h>
#include <olm/nn/hub.h>
#include <olm/nn/training.h>

#include "tools/olm/config.h"
#include "tools/olm/machine.h"
#include "tools/olm/run_folder.h"

namespace olm::tools {

/// Everything a run is made of.
struct Run {
  RunConfig config = {};
  std::string folder = {};
  int64_t context = 0;
  Device device = cpu;
  bool resumed = false;
  bool steps_given = false;  // by a flag: they replace those of the checkpoint
  std::shared_ptr<const nn::Tokenizer> tokenizer = {};
  nn::TokenDataset tokens = {}, train = {}, validation = {};
  bool tokens_kept = false;  // in the folder
  std::string data_note = {};
  nn::Ref<nn::Module> model = {};
  nn::Pretrained origin = {};  // what it began with, where that is another program's; no weights
  std::shared_ptr<nn::ExpertParallel> experts = {};
  std::unique_ptr<nn::Optimizer> optimizer = {};
  RunLock lock = {};
  Facts about = {};
};

/// Fills in tokenizer, tokens and context from the configuration, or takes tokenizer and tokens of
/// another run; then the model, on the run's device. Ranks but the first take what that
/// one has made from the folder.
void load_data(Run& run, const Run* same = nullptr);
void load_model(Run& run);
/// Spreads experts as the configuration says, and makes the optimizer. All ranks together.
void finish_model(Run& run);
/// Makes the folder of a new run, for this process alone.
void take_folder(Run& run);
/// Keeps the tokens in the folder where encoding the text takes long.
void keep_tokens(Run& run);
/// Writes the files that say what the run is.
void write_folder(Run& run);
nn::Loader loader_of(const Run& run);
nn::TrainerOptions trainer_options(const Run& run);
/// Goes on from the newest checkpoint, whose weights become the folder's.
void resume(Run& run, nn::Trainer& trainer);
/// What the plan says of a run.
struct Plan {
  int64_t parameters = 0, tokens_per_step = 0, steps_left = 0;
  double memory = 0;  ///< of the first rank, which has as much to do as any
  double flops_per_token = 0, seconds = 0;
};
/// Times some steps, and fixes their number where minutes were given; fills in run.about. All ranks
/// together.
Plan plan(Run& run, nn::Trainer& trainer);
/// metrics.csv and report.html from the logs.
void write_results(const Run& run);

/// The first SIGINT, SIGTERM or SIGHUP asks to stop, and under a launcher SIGUSR1 or SIGUSR2, which
/// mpirun passes on; a second one ends the process. A hang-up that is ignored, as under nohup,
/// stays so.
void catch_signals();
/// The signal that asked to stop, or 0.
int stop_signal();

}  // namespace olm::tools
