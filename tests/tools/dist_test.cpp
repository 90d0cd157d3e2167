// olm train on several ranks: the same bits on any number of them, whatever happens to one.
#include <tests/tools/on_ranks.h>
#include <tests/tools/runs.h>

using namespace olm;
using namespace olm::test;

namespace {

const Args kMixture = {"--model.family=deepseek_v3", "--model.num_layers=2",
                       "--model.num_experts=4", "--model.top_k=2", "--model.bias_update_rate=0.01"};

const char* const kFewTokens = "--sample.tokens=5";

Args operator+(Args a, const Args& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A training of 12 steps of 4 micro-batches each.
Args training(const std::string& data, const std::string& out, const Args& more = {}) {
  const Args few = {"--accumulation=4",     "--batch-size=1",   "--steps=12", "--eval-every=6",
                    "--checkpoint-every=4", "--sample-every=6", kFewTokens};
  return tiny_training(data, out, few + more);
}

/// What a checkpoint says but for the time it took, and the hash over that.
Json state_of(const std::string& checkpoint) {
  Json state = Json::parse(read_file(checkpoint + "/state.json"));
  state["train_seconds"] = 0;
  state["hash"] = "";
  return state;
}

/// The lines of run.toml that do not name the folder.
std::string configuration_of(const std::string& run) {
  std::istringstream in(read_file(run + "/run.toml"));
  std::string text;
  for (std::string line; std::getline(in, line);)
    if (!line.starts_with("out = ")) text += line + "\n";
  return text;
}

/// Those that both have, the last one among them.
void check_same_checkpoints(const std::string& a, const std::string& b) {
  const nn::Checkpoints first(a), second(b);
  REQUIRE(first.steps().back() == second.steps().back());
  for (const int64_t step : first.steps()) {
    if (!file_exists(second.path(step) + "/state.json")) continue;
    for (const char* file : {"/model.safetensors", "/optimizer.safetensors"})
      CHECK(read_file(first.path(step) + file) == read_file(second.path(step) + file));
    CHECK(state_of(first.path(step)) == state_of(second.path(step)));
  }
}

/// Trains on so many ranks, and expects the bytes of `whole`, which one process trained.
void check_on_ranks(const std::string& whole, const Args& training_of_it, int ranks,
                    const Args& more = {}) {
  const TempFolder folder;
  const std::string run = folder / "run";
  INFO(ranks, " ranks, ", more.empty() ? "" : more.front());
  const Result r = run_ranks(ranks, training_of_it + Args{"--out", run} + more);
  INFO(r.err);
  REQUIRE(r.status == 0);
  check_same_run(whole, run);
  check_same_checkpoints(whole, run);
  if (more.empty()) CHECK(configuration_of(whole) == configuration_of(run));
}

/// Sends `signal` to one rank once a checkpoint of `step` is there.
RunOptions signal_rank(const OnRanks& ranks, int rank, const std::string& run, int64_t step,
                       int signal) {
  return {.watch = [=, &ranks, sent = false](pid_t) mutable {
    if (sent || !file_exists(nn::Checkpoints(run).path(step) + "/state.json")) return;
    ::kill(ranks.process(rank), signal);
    sent = true;
  }};
}

/// Expects that all ranks end with one sentence, which holds all of `parts`.
void check_refused_once(Ranks ranks, const Args& args, const std::vector<std::string>& parts) {
  const Result r = OnRanks(std::move(ranks)).run(args);
  INFO(r.err);
  CHECK(r.status != 0);
  const std::vector<std::string> lines = lines_of_olm(r.err);
  CHECK(lines.size() == 1);
  for (const std::string& part : parts)
    for (const std::string& line : lines) CHECK_MESSAGE(line.find(part) != std::string::npos, part);
}

}  // namespace

TEST_SUITE("tools/dist") {
  TEST_CASE("1, 2 and 4 ranks train the same bytes") {
    if (!can_launch()) return;
    const Corpus c;
    const Args dense = training(c.data, "unused", {"--model.dropout=0.1"});
    const std::string whole = c.folder / "whole";
    REQUIRE(run_program(dense + Args{"--out", whole}).status == 0);
    check_on_ranks(whole, dense, 1);
    check_on_ranks(whole, dense, 2);
    check_on_ranks(whole, dense, 4, {"--dist.zero=0"});
    check_on_ranks(whole, dense, 4, {"--dist.zero=1", "--dist.buckets=0.01"});
  }

  TEST_CASE("so they do in bf16, with a vocabulary of their own") {
    if (!can_launch()) return;
    const Corpus c;
    const Args bf16 = training(c.data, "unused", {"--dtype=bf16", "--tokenizer=bpe:270"});
    const std::string whole = c.folder / "whole";
    REQUIRE(run_program(bf16 + Args{"--out", whole}).status == 0);
    check_on_ranks(whole, bf16, 2, {"--dist.zero=0"});
    check_on_ranks(whole, bf16, 4);
  }

  TEST_CASE("so do mixtures, with experts on each rank and spread over them") {
    if (!can_launch()) return;
    const Corpus c;
    const Args mixture = training(c.data, "unused", kMixture);
    const std::string whole = c.folder / "whole";
    REQUIRE(run_program(mixture + Args{"--out", whole}).status == 0);
    check_on_ranks(whole, mixture, 2);
    check_on_ranks(whole, mixture, 2, {"--dist.experts=2", "--dist.zero=0"});
    check_on_ranks(whole, mixture, 4, {"--dist.experts=2"});
  }

  TEST_CASE("kill -9 of a rank loses nothing, and the run goes on on another number of ranks") {
    if (!can_launch()) return;
    const Corpus c;
    const Args dropout = {"--model.dropout=0.1"};
    const std::string whole = c.folder / "whole", killed = c.folder / "killed";
    REQUIRE(run_program(training(c.data, whole, dropout)).status == 0);
    OnRanks ranks({.n = 4});
    const Result r = ranks.run(held_up(training(c.data, killed, dropout)),
                               signal_rank(ranks, 1, killed, 4, SIGKILL));
    CHECK(r.status != 0);
    CHECK(nn::Checkpoints(killed).steps().back() < 12);
    const Result resumed = run_ranks(2, {"train", "--resume", killed, kFewTokens});
    INFO(resumed.err);
    REQUIRE(resumed.status == 0);
    check_same_run(whole, killed);
    check_same_checkpoints(whole, killed);
  }

  TEST_CASE("SIGTERM on one rank saves on all, and one process goes on") {
    if (!can_launch()) return;
    const Corpus c;
    const Args spread = kMixture + Args{"--dist.experts=2"};
    const std::string whole = c.folder / "whole", run = c.folder / "run";
    REQUIRE(run_program(training(c.data, whole, kMixture)).status == 0);
    OnRanks ranks({.n = 2});
    const Result r =
        ranks.run(held_up(training(c.data, run, spread)), signal_rank(ranks, 1, run, 4, SIGTERM));
    INFO(r.err);
    CHECK(r.status == 128 + SIGTERM);
    CHECK(r.out.find("go on with: mpirun -n 2 olm train --resume " + run) != std::string::npos);
    CHECK(lines_of_olm(r.err).empty());
    REQUIRE(run_program({"train", "--resume", run, "--dist.experts=1", kFewTokens}).status == 0);
    check_same_run(whole, run);
    check_same_checkpoints(whole, run);
  }

  TEST_CASE("SIGUSR1, which launchers pass on, saves too; ranks of srun are to go on under srun") {
    if (!can_launch()) return;
    const Corpus c;
    const std::string run = c.folder / "run";
    // Both let ranks find each other by PMIx.
    const std::string as_srun =
        "export SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$OMPI_COMM_WORLD_RANK; "
        "unset OMPI_COMM_WORLD_SIZE";
    const Result r = OnRanks({.before = {{0, as_srun}, {1, as_srun}}})
                         .run(held_up(training(c.data, run)), interrupt_at(run, 4, SIGUSR1));
    INFO(r.err);
    CHECK(r.status == 128 + SIGUSR1);
    CHECK(r.out.find("go on with: srun --mpi=pmix -n 2 olm train --resume " + run + "\n") !=
          std::string::npos);
  }

  TEST_CASE("so do SIGUSR1 and SIGTERM in a job of Slurm without srun, however often they come") {
    const Corpus c;
    const Args endless = {"--steps=1000000"};
    const Environment job(Variables{{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}});
    for (const int signal : {SIGUSR1, SIGTERM}) {
      const std::string run = c.folder / std::to_string(signal);
      const auto insist = [&](pid_t child) {
        if (file_exists(nn::Checkpoints(run).path(4) + "/state.json")) ::kill(child, signal);
      };
      const Result r = run_program(training(c.data, run, endless), {.watch = insist});
      INFO(r.err);
      CHECK(r.status == 128 + signal);
      CHECK(r.out.find("go on with: olm train --resume " + run + "\n") != std::string::npos);
    }
  }

  TEST_CASE("tasks of srun that cannot find each other are refused, whatever it speaks") {
    if (!can_launch()) return;
    const Corpus c;
    const auto refused = [&](const char* rank, const Variables& spoken) {
      const Environment srun(Variables{{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", rank}});
      const Environment pmi(spoken);
      const Result r = run_program(training(c.data, c.folder / "run"));
      CHECK(r.status == 1);
      return r.err;
    };
    const std::string why = ", that cannot find each other; wanted srun --mpi=pmix\n";
    CHECK(refused("0", {}) ==
          "olm train: init: 2 ranks were started, says SLURM_STEP_NUM_TASKS" + why);
    CHECK(refused("0", {{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}) ==
          "olm train: init: 2 ranks were started, says PMI_SIZE" + why);
    CHECK(refused("1", {}).empty());
    CHECK_FALSE(folder_exists(c.folder / "run"));
  }

  TEST_CASE("what is said is said once") {
    if (!can_launch()) return;
    const Corpus c;
    const Result r = run_ranks(2, training(c.data, c.folder / "run"));
    INFO(r.err);
    REQUIRE(r.status == 0);
    for (const char* part : {"ranks: 2 on 1 machine, Open MPI ", "; micro-batches 4, 2 each",
                             "data: ", "plan: ", " memory per rank", "step 6/12  validation loss ",
                             "done: validation loss "}) {
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
      CHECK_MESSAGE(r.out.find(part) == r.out.rfind(part), part);
    }
  }

  TEST_CASE("ranks that disagree are told on what, before a step") {
    if (!can_launch()) return;
    const Corpus c;
    const TempFolder folder;
    const std::string other = folder / "other.txt", out = folder / "run";
    write_file(other, small_text(401));
    const Args args = training(c.data, out);
    const std::string begun = folder / "begun";
    make_directories(begun);
    write_file(begun + "/run.toml", run_program(args + Args{"--print-config"}).out);
    check_refused_once({.before = {{1, "set -- train --resume " + begun}}}, training(c.data, begun),
                       {"disagree on --resume: left out on rank 0, given on rank 1"});
    check_refused_once({.more = {{1, {"--train.seed=7"}}}}, args,
                       {"olm train: rank 0: ", "train.seed", "1 on rank 0", "7 on rank 1"});
    check_refused_once({.more = {{1, {"--data", other}}}}, args,
                       {"olm train: rank 1: ", other, "another text"});
    check_refused_once({.more = {{1, {"--no-such-flag"}}}}, args,
                       {"olm: rank 1: ", "--no-such-flag"});
    check_refused_once({}, args + Args{"--no-such-flag"}, {"olm: rank 0: ", "--no-such-flag"});
    CHECK(nn::Checkpoints(out).steps().empty());
  }

  TEST_CASE("ranks that are told to do different things say so at once") {
    if (!can_launch()) return;
    const Corpus c;
    const Args args = training(c.data, c.folder / "run");
    const auto other = [](const std::string& command) {
      return Ranks{.before = {{1, "set -- " + command}}};
    };
    check_refused_once(
        other("--version"), args,
        {"ranks disagree on the command: olm train on rank 0, olm --version on rank 1"});
    check_refused_once(other("sample run"), args, {"olm sample: rank 1: ", "one process"});
    const Result version = run_ranks(2, {"--version"});
    CHECK(version.status == 0);
    CHECK(version.out.size() % 2 == 0);
    CHECK(version.out ==
          version.out.substr(version.out.size() / 2) + version.out.substr(version.out.size() / 2));
    CHECK_FALSE(folder_exists(c.folder / "run"));
  }

  TEST_CASE("numbers of ranks that cannot be are refused") {
    if (!can_launch()) return;
    const Corpus c;
    const TempFolder folder;
    check_refused_once({.n = 3}, training(c.data, folder / "run", {"--accumulation=2"}),
                       {"train.accumulation", "3 ranks", "got 2"});
    check_refused_once({.n = 2},
                       training(c.data, folder / "run", kMixture + Args{"--dist.experts=3"}),
                       {"dist.experts", "3", "2"});
    check_refused_once({.n = 2}, training(c.data, folder / "run", {"--dist.experts=2"}),
                       {"the model has no mixture of experts"});
    const Args uneven = {"--dist.experts=2", "--accumulation=3"};
    check_refused_once({.n = 2}, training(c.data, folder / "run", kMixture + uneven),
                       {"of 3 they have 2 and 1"});
    CHECK_FALSE(folder_exists(folder / "run"));
  }

  TEST_CASE("what computes in one process is refused") {
    if (!can_launch()) return;
    // The first rank says so, though it is the last to begin.
    check_refused_once({.before = {{0, "sleep 1"}}}, {"sample", "run"},
                       {"olm sample: ", "one process", "mpirun"});
    check_refused_once({}, {"ablate", "nano", "nanogpt-cpu"},
                       {"olm ablate: ", "one process", "mpirun"});
  }

  TEST_CASE("a rank that dies at the start, or has no MPI, ends all") {
    if (!can_launch()) return;
    const Corpus c;
    const TempFolder folder;
    CHECK(OnRanks({.before = {{1, "exit 3"}}}).run(training(c.data, folder / "run")).status == 3);
    check_refused_once({.environment = {{"OLM_MPI_LIBRARY", "/nowhere/libmpi.so"}}},
                       training(c.data, folder / "run"), {"olm train: ", "/nowhere/libmpi.so"});
    check_refused_once({.before = {{1, "export OLM_MPI_LIBRARY=/nowhere/libmpi.so"}}},
                       training(c.data, folder / "run"), {"olm train: rank 1: MPI: ", "/nowhere/"});
    CHECK_FALSE(file_exists(folder / "run/run.toml"));
  }

  TEST_CASE("one process needs no MPI") {
    const Corpus c;
    // One task of srun is one, whatever that speaks.
    const Environment none(Variables{{"OLM_MPI_LIBRARY", "/nowhere/libmpi.so"},
                                     {"SLURM_STEP_NUM_TASKS", "1"},
                                     {"PMIX_RANK", "0"},
                                     {"PMI_RANK", "0"}});
    CHECK(run_program(training(c.data, c.folder / "run")).status == 0);
  }
}
