#pragma once
// The subcommands: each takes what its flags said, prints, and returns the exit status.
#include <optional>
#include <string>
#include <vector>

#include "tools/olm/config.h"

namespace olm::tools {

struct TrainArgs {
  std::string config = {}, preset = {}, resume = {}, model = {};
  FlagValues flags = {};
  bool print_config = false, print_presets = false;
};
int train(const TrainArgs& args);

struct PlanArgs {
  TrainArgs train = {};
  std::optional<int64_t> ranks = {}, ranks_per_machine = {}, vocab_size = {};
  std::string gpu = {};
  std::optional<double> link = {}, rate = {}, share = {}, memory = {};
  bool json = false;
};
int plan(const PlanArgs& args);

struct SampleArgs {
  std::string folder = {}, dtype = "f32", device = "cpu", prompts_file = {};
  std::vector<std::string> prompts = {}, stop_strings = {};
  FlagValues flags = {};
  bool no_cache = false, stop_when_full = false, logprobs = false, special_tokens = false;
};
int sample(const SampleArgs& args);

struct EvalArgs {
  std::string folder = {}, data = {}, dtype = "f32", device = "cpu";
  int64_t context = 0, stride = 0;  // 0 is as --help says
  bool json = false;
};
int eval(const EvalArgs& args);

struct InspectArgs {
  std::string path = {}, model = {}, dtype = "f32";
  int64_t batch = 1, context = 0, vocab_size = 50257;
  bool models = false, json = false, tensors = false;
};
int inspect(const InspectArgs& args);
/// What a model is and takes: --model.
int inspect_model(const InspectArgs& args);

struct ImportArgs {
  std::string from = {}, out = {};
};
int import_model(const ImportArgs& args);

struct ExportArgs {
  std::string from = {}, form = {}, out = {}, type = {}, shard_size = "5GB", family = {}, name = {};
};
int export_model(const ExportArgs& args);

struct VerifyArgs {
  std::string a = {}, b = {}, data = {};
  std::vector<std::string> texts = {};
  std::optional<double> tolerance = {};
};
int verify(const VerifyArgs& args);

struct AblateArgs {
  std::vector<std::string> variants = {};
  TrainArgs train = {};  // what all variants share
  std::string resume = {};
  int64_t slice = 0;  // steps of a turn; 0 is about five seconds of them
};
int ablate(const AblateArgs& args);

struct TokenizerArgs {
  std::string data = {}, kind = "bpe:4096", out = "tokenizer.json";  // train
  std::string path = {};                                             // encode, decode
  std::optional<std::string> text = {};
  bool special_tokens = false, add_special = false;
  std::vector<int64_t> ids = {};
};
int tokenizer_train(const TokenizerArgs& args);
int tokenizer_encode(const TokenizerArgs& args);
int tokenizer_decode(const TokenizerArgs& args);

int doctor();

struct BenchStepArgs {
  std::string preset = "S", dtype = "f32", device = "cpu", json = {};
  int64_t threads = 0, steps = 8, micro_batches = 0;
  double budget = 0, gate = 0.83;
  bool recompute = false;
};
int bench_step(const BenchStepArgs& args);

struct BenchArgs {
  std::vector<std::string> kernels = {};
  std::string shape = {}, dtype = "all", device = "cpu", json = {};
  int64_t threads = 0, reps = 7;
  double budget = 0.5, gate = 0.83;
  bool cold = false, no_roofs = false;
};
int bench_kernels(const BenchArgs& args);
/// "gemm (MxNxK), softmax (ROWSxCOLS), …": all there are.
std::string bench_names();

struct BenchCompareArgs {
  std::string before = {}, after = {}, fail_over = "5%";
};
int bench_compare(const BenchCompareArgs& args);

}  // namespace olm::tools
