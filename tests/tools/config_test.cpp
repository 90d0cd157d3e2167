// The configuration of olm train: sections, flags, presets.
#include <olm/nn/models.h>
#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {
/// Families before any test adds to them.
const std::vector<std::string> built_in = nn::families().names();
}  // namespace

TEST_SUITE("tools/config") {
  TEST_CASE("a flag beats the file, which beats the preset") {
    const TempFolder folder;
    write_file(folder / "run.toml", "[train]\nsteps = 77\nbatch_size = 5\n");
    const Result r = run_program({"train", "--preset", "nanogpt-gpu", "--config",
                                  folder / "run.toml", "--steps", "88", "--print-config"});
    REQUIRE(r.status == 0);
    CHECK(r.out.find("steps = 88 ") != std::string::npos);
    CHECK(r.out.find("batch_size = 5 ") != std::string::npos);
    CHECK(r.out.find("embed_dim = 384 ") != std::string::npos);
  }

  TEST_CASE("[dist] says how ranks share the work, and refuses what cannot be") {
    const TempFolder folder;
    write_file(folder / "run.toml", "[dist]\nexperts = 2\nwire = \"bf16\"\n");
    const Result r = run_program({"train", "--config", folder / "run.toml", "--dist.zero", "0",
                                  "--dist.deterministic", "false", "--print-config"});
    REQUIRE(r.status == 0);
    for (const char* part : {"[dist]\nzero = 0 ", "\nexperts = 2 ", "\nbuckets = 25.0 ",
                             "\ndeterministic = false ", "\nwire = \"bf16\" ", "\ntimeout = 60.0 "})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
    check_refused({"train", "--dist.zero=2"}, {"--dist.zero", "2"});
    check_refused({"train", "--dist.wire=f16"}, {"--dist.wire", "f16", "bf16"});
    check_refused({"train", "--dist.buckets=0"}, {"--dist.buckets", "0"});
    check_refused({"train", "--data=text", "--dist.experts=2"}, {"dist.experts", "1", "got 2"});
  }

  TEST_CASE("what is printed can be read, and says the same") {
    const TempFolder folder;
    const std::string text = "sample with \"quotes\", \\ and\nlines";
    const Result first =
        run_program({"train", "--preset", "llama-20m", "--sample.prompt", text, "--print-config"});
    REQUIRE(first.status == 0);
    write_file(folder / "run.toml", first.out);
    const Result second = run_program({"train", "--config", folder / "run.toml", "--print-config"});
    INFO(second.err);
    CHECK(second.out == first.out);
  }

  TEST_CASE("another family keeps the keys that it shares, and what is left out can be so again") {
    const Result r =
        run_program({"train", "--preset", "nano", "--model.family", "gpt2", "--print-config"});
    for (const char* part : {"num_layers = 3 ", "embed_dim = 96 ",
                             "# intermediate_size =", "bias = true", "dropout = 0.0"})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
    CHECK(r.out.find("rope_theta") == std::string::npos);
    const Result qwen2 = run_program(
        {"train", "--preset", "llama-20m", "--model.family", "qwen2", "--print-config"});
    for (const char* part : {"num_kv_heads = 2 ", "intermediate_size = 1024 ",
                             "rope_theta = 1e+06 ", "rms_norm_eps = 1e-06 "})
      CHECK_MESSAGE(qwen2.out.find(part) != std::string::npos, part);
    check_refused({"train", "--preset", "llama-20m", "--model.family", "gpt2", "--print-config"},
                  {"gpt2 has no num_kv_heads", "2", "llama"});
    const Result none = run_program(
        {"train", "--preset", "llama-20m", "--model.num_kv_heads", "none", "--print-config"});
    CHECK(none.out.find("# num_kv_heads =") != std::string::npos);
    CHECK(none.out.find("\nintermediate_size = 1024 ") != std::string::npos);
  }

  TEST_CASE("the configuration of every family can be read as it is printed") {
    for (const std::string& family : built_in) {
      INFO(family);
      const TempFolder folder;
      const Result first =
          run_program({"train", "--preset", "nano", "--model.family", family, "--print-config"});
      INFO(first.err);
      REQUIRE(first.status == 0);
      write_file(folder / "run.toml", first.out);
      const Result second =
          run_program({"train", "--config", folder / "run.toml", "--print-config"});
      INFO(second.err);
      CHECK(second.out == first.out);
    }
  }

  TEST_CASE("help names presets, defaults, ranges and what is of one family alone") {
    const Result r = run_program({"train", "--help"});
    REQUIRE(r.status == 0);
    for (const char* part :
         {"nanogpt-cpu, nanogpt-gpu", "--lr,--optim.lr=0.001",
          "highest learning rate (0 to 1000000)", "--model.family=\"gpt2\"", "gpt2, llama, llama3",
          "adamw, muon, lion or sgd", "--model.intermediate_size ",
          "all but gpt2, olmo, opt: base of the rotary frequencies (above 0)",
          "gpt2: biases in linear layers", "log2(batches of a rank) + 1 gradients"})
      CHECK_MESSAGE(r.out.find(part) != std::string::npos, part);
  }

  TEST_CASE("the tables of docs/models.md are those of the program") {
    const std::string page = read_file(std::string(OLM_FIXTURES) + "/../../docs/models.md");
    CHECK(page.find(run_program({"train", "--print-presets"}).out) != std::string::npos);
    CHECK(page.find(run_program({"inspect", "--models"}).out) != std::string::npos);
  }

  TEST_CASE("every preset is one that can be trained, and stands in the table") {
    const Result table = run_program({"train", "--print-presets"});
    REQUIRE(table.status == 0);
    CHECK(table.out.find("99999") == std::string::npos);
    for (const char* name :
         {"nano", "nanogpt-cpu", "nanogpt-gpu", "gpt2-124m", "llama-20m", "llama-124m"}) {
      CHECK(run_program({"train", "--preset", name, "--print-config"}).status == 0);
      CHECK(table.out.find(std::string(" ") + name + " |") != std::string::npos);
    }
  }

  TEST_CASE("what cannot be is refused in one sentence") {
    const TempFolder folder;
    const std::string file = folder / "run.toml";
    auto refuse = [&](const std::string& toml, const std::vector<std::string>& parts) {
      write_file(file, toml);
      check_refused({"train", "--config", file, "--print-config"}, parts);
    };
    refuse("[train]\nstepz = 3\n", {"run.toml", "[train]", "stepz", "known are", "batch_size"});
    refuse("[trian]\nsteps = 3\n", {"run.toml", "trian", "known sections are"});
    refuse("steps = 3\n", {"unknown key \"steps\""});
    refuse("[train]\nsteps = \"many\"\n", {"steps", "an integer", "many"});
    refuse("[train]\nsteps = 2.5\n", {"steps", "an integer", "2.5"});
    refuse("[model]\nbias = 1\n", {"bias", "true or false"});
    refuse("[train]\nsteps = = 3\n", {"not valid TOML", "line 2"});
    refuse("[train]\nsteps = 1979-05-27\n", {"steps", "dates"});
    refuse("[model]\nnum_heads = 3\n", {"model: ", "num_heads 3", "128"});
    refuse("[model]\nfamily = \"bert\"\n", {"[model]: family", "bert", "gpt2, llama, "});
    refuse("[train]\ndtype = \"f17\"\n", {"dtype", "f17"});
    refuse("[train]\ndtype = \"i32\"\n", {"[train]: dtype", "f32 or bf16", "i32"});
    refuse("[optim]\nlr = -1.0\n", {"run.toml: [optim]: lr", "0 to 1000000", "-1"});
    refuse("[optim]\nlr = nan\n", {"[optim]: lr", "nan"});
    refuse("[data]\ntrain_fraction = 1.0\n", {"[data]: train_fraction", "0.001 to 0.999"});
    refuse("[train]\nthreads = 5000\n", {"[train]: threads", "0 to 4096", "5000"});
    refuse("[model]\nfamily = \"llama\"\nrope_theta = 0.0\n", {"rope_theta", "above 0"});
    refuse("[model]\nfamily = \"llama\"\nrope_theta = inf\n", {"rope_theta", "finite"});
    refuse("[model]\nrope_theta = 10000.0\n", {"unknown key \"rope_theta\"", "intermediate_size"});
    refuse("[model]\nvocab_size = 99\n", {"unknown key \"vocab_size\""});
    check_refused({"train", "--model.rope_theta", "1e4", "--print-config"},
                  {"--model.rope_theta", "gpt2"});
    check_refused({"train", "--model.intermediate_size", "0", "--print-config"},
                  {"--model.intermediate_size", "1 to 10000000", "0"});
    check_refused({"train", "--model.family", "bert", "--print-config"},
                  {"--model.family", "gpt2, llama, ", "bert"});
    check_refused({"train", "--model.intermediate_size", "x", "--print-config"},
                  {"--model.intermediate_size", "an integer or none", "x"});
    check_refused({"train", "--optim.beta1", "inf", "--print-config"}, {"--optim.beta1", "finite"});
    refuse("[model]\nmax_seq_len = 1\n", {"[model]: max_seq_len", "2 to"});
    check_refused({"train", "--data", "t\xff", "--print-config"}, {"data.path", "UTF-8", "byte 1"});
    check_refused({"train", "--config", folder / "none.toml"}, {"none.toml"});
    check_refused({"train", "--preset", "big"}, {"big", "known are", "nano"});
    check_refused({"train", "--steps", "12x", "--print-config"}, {"--train.steps", "12x"});
    check_refused({"train", "--model.bias", "yes", "--print-config"}, {"--model.bias", "yes"});
    check_refused({"train", "--tokenizer", "words", "--data", file}, {"words"});
  }

  TEST_CASE("a wrong command line has status 2") {
    for (const Args& args : std::vector<Args>{{},
                                              {"trian"},
                                              {"train", "--stepz", "3"},
                                              {"sample"},
                                              {"sample", "x", "--tokens"},
                                              {"eval", "x"}})
      CHECK(run_program(args).status == 2);
  }

  TEST_CASE("the version and the machine are told") {
    CHECK(run_program({"--version"}).status == 0);
    const Result r = run_program({"doctor"});
    CHECK(r.status == 0);
    for (const char* part :
         {"olm", "threads", "instruction sets", "matrix products", "BLAS", "memory"})
      CHECK(r.out.find(part) != std::string::npos);
  }
}
