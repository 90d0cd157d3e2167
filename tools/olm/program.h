#pragma once
// The olm program as a function, for programs that add layers and models of their own to it.
#include <olm/olm.h>

namespace olm::tools {

/// Runs the olm program on a command line (`train`, `sample`, …) and returns its exit status: 0; 1
/// after an error, of which one sentence is on standard error; 2 for a command line that is none;
/// 128 + the signal that stopped a training. What was added to layers(), activations(), families()
/// and the other registries before is there by name:
///
///   int main(int argc, char** argv) {
///     olm::nn::layers().add("Mine", olm::nn::layer_maker<MineModule>("Mine"));
///     olm::nn::families().add("mine", olm::nn::ModelConfig(MineConfig(), MineModel, init_mine));
///     return olm::tools::run(argc, argv);
///   }
///
/// and `train --model.family mine`, `sample`, `inspect` and the others know it. Unlike the library
/// it prints, handles signals (SIGINT, SIGTERM and SIGHUP while training, under mpirun or srun also
/// SIGUSR1 and SIGUSR2; SIGPIPE and SIGXFSZ are ignored), joins the ranks of a launcher and opens
/// standard streams that came closed: it is to be all that main() does then.
int run(int argc, char** argv);

}  // namespace olm::tools
