#pragma once
// A tiny model in the three forms, for tests of the program.
#include <fstream>
#include <string>
#include <vector>

#include <olm/engine/json.h>

#include <tests/tools/program.h>

namespace olm::test {

inline std::string output(const Args& args, int status = 0) {
  const Result r = run_program(args);
  std::string command;
  for (const std::string& a : args) command += a + " ";
  INFO("command: olm ", command);
  INFO("stdout: ", r.out);
  INFO("stderr: ", r.err);
  CHECK(r.status == status);
  return r.out;
}

/// A tiny model in the three forms, made once.
struct Forms {
  TempFolder folder;
  std::string data = folder / "text.txt", run = folder / "run", hf = folder / "hf",
              gguf = folder / "model.gguf";
  Forms() {
    write_file(data, small_text());
    output(tiny_training(data, run,
                         {"--model.family=llama", "--tokenizer=bpe:280", "--lr=0.01", "--steps=60",
                          "--model.padded_vocab_size=288", "--sample-every=0"}));
    output({"export", run, "--to", "hf", hf});
    // What another program may have written beside.
    Json config = read_json(hf + "/config.json");
    config["a_key_of_theirs"] = 7;
    write_file(hf + "/config.json", config.dump(2));
    output({"export", hf, "--to", "gguf", gguf, "--type", "f32"});
  }
  std::vector<std::string> all() const { return {run, hf, gguf}; }
};
inline const Forms& forms() {
  static const Forms instance;
  return instance;
}

inline void replace(const std::string& path, const std::string& what, const std::string& with) {
  std::string text = read_file(path);
  REQUIRE(text.find(what) != std::string::npos);
  write_file(path, text.replace(text.find(what), what.size(), with));
}

/// True once a process that was started is the program.
inline bool runs_program(pid_t process) {
  std::ifstream in("/proc/" + std::to_string(process) + "/comm");
  std::string name;
  return std::getline(in, name) && name == "olm";
}

/// A copy of the folder for one to spoil.
inline std::string copy_of(const TempFolder& f, const std::string& from, const std::string& name) {
  fs::copy(from, f / name, fs::copy_options::recursive);
  return f / name;
}

}  // namespace olm::test
