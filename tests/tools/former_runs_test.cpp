// Runs that an earlier version wrote: its [model] had one set of keys for all families, in which 0
// stood for what is now left out. The folders in tests/fixtures/runs were made by that version.
#include <olm/nn/training.h>
#include <tests/tools/program.h>

using namespace olm;
using namespace olm::test;

namespace {

/// A copy of such a run, and the text it was trained on.
struct FormerRun {
  TempFolder folder;
  std::string run = folder / "run", data = folder / "text.txt";
  explicit FormerRun(const std::string& name) {
    fs::copy(std::string(OLM_FIXTURES) + "/runs/" + name, run, fs::copy_options::recursive);
    write_file(data, small_text());
  }
};

}  // namespace

TEST_SUITE("tools/former_runs") {
  TEST_CASE("former runs go on, are sampled from, measured and shown") {
    for (const std::string name : {"gpt2", "llama"}) {
      INFO(name);
      const FormerRun former(name);
      CHECK(run_program({"inspect", former.run}).status == 0);
      CHECK(run_program({"sample", former.run, "--prompt", "mira ", "--tokens", "5"}).status == 0);
      const Result eval = run_program({"eval", former.run, "--data", former.data});
      CHECK(eval.status == 0);
      const Result r =
          run_program({"train", "--resume", former.run, "--data", former.data, "--steps", "12"});
      INFO(r.err);
      REQUIRE(r.status == 0);
      CHECK(r.out.find("resuming at step 10 of 12") != std::string::npos);
      // run.toml now has the keys of the family.
      const std::string toml = read_file(former.run + "/run.toml");
      CHECK(toml.find("rope_base") == std::string::npos);
      CHECK(toml.find(name == "llama" ? "rope_theta = 5000" : "intermediate_size = 24") !=
            std::string::npos);
      CHECK(run_program({"train", "--resume", former.run, "--steps", "13"}).status == 0);
    }
  }

  TEST_CASE("weights of former runs begin new ones") {
    for (const char* name : {"gpt2", "llama"}) {
      const FormerRun former(name);
      const Result r =
          run_program({"train", "--init-from", former.run, "--data", former.data, "--out",
                       former.folder / "new", "--steps", "1", "--batch-size", "2"});
      INFO(r.err);
      CHECK(r.status == 0);
    }
  }

  TEST_CASE("former keys in a file mean what they meant, or are refused") {
    const TempFolder folder;
    const std::string file = folder / "old.toml";
    const auto config = [&](const std::string& model) {
      write_file(file, "[model]\n" + model);
      return run_program({"train", "--config", file, "--print-config"}).out;
    };
    const std::string llama = config(
        "family = \"llama\"\nnum_kv_heads = 0\nhidden_dim = 96\nbias = false\nrope_base = 3.0\n");
    for (const char* part : {"# num_kv_heads =", "\nintermediate_size = 96 ", "rope_theta = 3.0 "})
      CHECK_MESSAGE(llama.find(part) != std::string::npos, part);
    const std::string gpt2 =
        config("num_heads = 4\nnum_kv_heads = 4\nhidden_dim = 0\nrope_base = 10000.0\n");
    CHECK(gpt2.find("# intermediate_size =") != std::string::npos);
    const auto refuse = [&](const std::string& model, const std::vector<std::string>& parts) {
      write_file(file, "[model]\n" + model);
      check_refused({"train", "--config", file, "--print-config"}, parts);
    };
    refuse("num_heads = 4\nnum_kv_heads = 2\n", {"old.toml", "num_kv_heads is 2", "gpt2"});
    refuse("family = \"llama\"\nrope_base = 2.0\nrope_theta = 3.0\n", {"rope_base", "rope_theta"});
    refuse("family = \"llama\"\nrope_base = 0.0\n", {"rope_theta", "above 0"});
    refuse("family = \"llama\"\nnum_kv_heads = 3\n", {"num_kv_heads 3"});
  }
}
