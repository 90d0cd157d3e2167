// The olm program: flags, errors and exit status. The only place that sees CLI11.
#include "tools/olm/program.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include <olm/nn/version.h>

#include "tools/olm/commands.h"
#include "tools/olm/job.h"
#include "tools/olm/presets.h"
#include "tools/olm/speed.h"

namespace olm::tools {

namespace {

constexpr const char* kModelHelp = "run folder, folder of Hugging Face's transformers, or .gguf";
constexpr const char* kTokenizerHelp =
    "a model, or tokenizer.json, tokenizer.model, tekken.json, .tiktoken, vocab.json, or a folder";

/// A key of the configuration as a flag.
CLI::Option* add_key(CLI::App& app, FlagValues& flags, const std::string& names,
                     const KeyInfo& key) {
  return app
      .add_option_function<std::string>(
          names,
          [&flags, path = key.path](const std::string& text) { flags.emplace_back(path, text); },
          key.help)
      ->take_last()
      ->type_name("");
}

/// Every key of the configuration as a flag of `olm train`, under its path and its short name.
void add_config_flags(CLI::App& app, FlagValues& flags) {
  for (const KeyInfo& key : all_keys()) {
    std::string names = "--" + key.path;
    for (const auto& [name, path] : aliases())
      if (path == key.path) names = "--" + name + "," + names;
    add_key(app, flags, names, key)
        ->default_str(key.value == "\"\"" ? "" : key.value)
        ->group("[" + key.path.substr(0, key.path.find('.')) + "]");
  }
}

/// The keys of [sample] but the prompt as flags of `olm sample`: top_k is --top-k.
void add_sample_flags(CLI::App& app, FlagValues& flags) {
  for (const KeyInfo& key : all_keys()) {
    if (!key.path.starts_with("sample.") || key.path == "sample.prompt") continue;
    std::string name = key.path.substr(key.path.find('.') + 1);
    std::replace(name.begin(), name.end(), '_', '-');
    add_key(app, flags, "--" + name + ",--" + key.path, key);
  }
}

/// A flag that may come several times.
void add_texts(CLI::App& app, const std::string& names, std::vector<std::string>& texts,
               const std::string& help) {
  app.add_option(names, texts, help)->take_all()->allow_extra_args(false)->type_name("TEXT");
}

void add_dtype(CLI::App& app, std::string& dtype) {
  const nn::FieldInfo info = activation_dtypes();
  app.add_option("--dtype", dtype, info.help + ": " + info.range())->capture_default_str();
}

void add_device(CLI::App& app, std::string& device) {
  app.add_option("--device", device, device_info().help)->capture_default_str();
}

std::string preset_names() {
  std::string names;
  for (const Preset& preset : presets()) names += (names.empty() ? "" : ", ") + preset.name;
  return names;
}

/// What a configuration begins with.
void add_beginning(CLI::App& app, TrainArgs& args) {
  app.add_option("--config", args.config, "TOML file with the configuration");
  app.add_option("--preset", args.preset, "named configuration to begin with: " + preset_names());
  app.add_option("--model", args.model,
                 "model.json of a model of one's own, run folder, or name of a model");
}

void add_train(CLI::App& app, Job& job, TrainArgs& args) {
  CLI::App* train_app = app.add_subcommand("train", "Train a language model on text");
  add_beginning(*train_app, args);
  train_app->add_option("--resume", args.resume, "go on with the run in this folder");
  train_app->add_flag("--print-config", args.print_config, "print the configuration and stop");
  train_app->add_flag("--print-presets", args.print_presets, "print a table of presets and stop");
  train_app->footer("The value behind = holds where no file, preset or flag says otherwise.");
  add_config_flags(*train_app, args.flags);
  train_app->callback([&] { job = {"olm train", [&] { return train(args); }, true}; });
}

void add_plan(CLI::App& app, Job& job, PlanArgs& args) {
  CLI::App* plan_app = app.add_subcommand(
      "plan", "Say what a training would take of each rank: memory, bytes sent, time");
  add_beginning(*plan_app, args.train);
  plan_app->add_option("--ranks", args.ranks, "processes; where left out those of mpirun, or one");
  plan_app->add_option("--ranks-per-machine", args.ranks_per_machine, "as here, or usual ones");
  plan_app->add_option("--gpu", args.gpu,
                       "what a rank computes on, in place of this machine: " + card_names());
  plan_app->add_option("--link", args.link, "Gbit/s that a rank sends to other machines");
  plan_app->add_option("--rate", args.rate, "TFLOP/s of matrices, in place of what is known");
  plan_app->add_option("--share", args.share, "of that rate, that forward and backward reach");
  plan_app->add_option("--memory", args.memory, "GB that a rank may use");
  plan_app->add_option("--vocab-size", args.vocab_size,
                       "ids; where left out what tokenizer, text or model say");
  plan_app->add_flag("--json", args.json, "print the figures as JSON");
  plan_app->footer("Nothing is trained or written. The other flags are those of olm train.");
  add_config_flags(*plan_app, args.train.flags);
  plan_app->callback([&] { job = {"olm plan", [&] { return plan(args); }, true}; });
}

void add_sample(CLI::App& app, Job& job, SampleArgs& args) {
  CLI::App* sample_app = app.add_subcommand("sample", "Continue a text with a trained model");
  sample_app->add_option("model", args.folder, kModelHelp)->required();
  add_texts(*sample_app, "--prompt,--sample.prompt", args.prompts,
            "text to continue; may come again, each text is as if it were alone");
  sample_app->add_option(
      "--prompts", args.prompts_file,
      "file with a text to continue in each line; of a .jsonl, as a JSON string");
  add_sample_flags(*sample_app, args.flags);
  add_texts(*sample_app, "--stop", args.stop_strings,
            "end before this text; may come again, the first of them ends it");
  sample_app->add_flag("--logprobs", args.logprobs,
                       "print a JSON object for each prompt: the text, and its tokens with the "
                       "natural logarithms of the probabilities that the model gave them");
  sample_app->footer(
      "Where a flag is left out the run's own [sample] holds, and of a model of another program "
      "its generation_config.json. A prompt begins with bos where the model's tokenizer adds it.");
  sample_app->add_flag("--special-tokens", args.special_tokens,
                       "special tokens in a prompt, such as <|im_start|>, get their ids");
  add_dtype(*sample_app, args.dtype);
  add_device(*sample_app, args.device);
  sample_app->add_flag("--no-cache", args.no_cache, "compute all earlier tokens again each time");
  sample_app->add_flag("--stop-when-full", args.stop_when_full,
                       "stop where the model's context is full instead of moving on");
  sample_app->callback([&] { job = {"olm sample", [&] { return sample(args); }}; });
}

void add_eval(CLI::App& app, Job& job, EvalArgs& args) {
  CLI::App* eval_app = app.add_subcommand("eval", "Measure a trained model on a text");
  eval_app->add_option("model", args.folder, kModelHelp)->required();
  eval_app->add_option("--data", args.data, "text: a file or a folder")->required();
  eval_app->add_option("--context", args.context,
                       "tokens seen at once; where left out what the model takes, at most 2048");
  eval_app->add_option("--stride", args.stride,
                       "tokens from a window to the next; less than the context, windows overlap, "
                       "and each token is predicted from at least the difference");
  eval_app->footer(
      "Every token of every file is scored once, so that the bits per byte are those of a code for "
      "the whole text. The first token of a file is predicted from bos where the tokenizer adds "
      "it, else from <|endoftext|> or eos; without these it costs log2 of the number of ids.");
  add_dtype(*eval_app, args.dtype);
  add_device(*eval_app, args.device);
  eval_app->add_flag("--json", args.json, "print the figures as a JSON object");
  eval_app->callback([&] { job = {"olm eval", [&] { return eval(args); }}; });
}

void add_inspect(CLI::App& app, Job& job, InspectArgs& args) {
  CLI::App* inspect_app = app.add_subcommand("inspect", "Show what is in a run or a file");
  inspect_app->add_option("path", args.path,
                          "run folder, folder of Hugging Face's, .gguf, safetensors or JSON file");
  inspect_app->add_flag("--tensors", args.tensors, "list the tensors instead of the layers");
  inspect_app->add_flag("--models", args.models, "print a table of the library's models and stop");
  inspect_app->add_option("--model", args.model,
                          "what a model is and takes: model.json, run folder, preset, model or "
                          "family by name; nothing is allocated");
  inspect_app->add_option("--batch", args.batch, "with --model: sequences")->capture_default_str();
  inspect_app
      ->add_option("--context", args.context,
                   "with --model: tokens of a sequence; 0 is all that it takes")
      ->capture_default_str();
  inspect_app
      ->add_option("--vocab-size", args.vocab_size,
                   "with --model: ids, where it leaves them to the tokenizer")
      ->capture_default_str();
  add_dtype(*inspect_app, args.dtype);
  inspect_app->add_flag("--json", args.json, "with --model: the figures as JSON");
  inspect_app->callback([&] {
    if (args.path.empty() && args.model.empty() && !args.models)
      throw CLI::RequiredError("path, --model or --models");
    job = {"olm inspect", [&] { return inspect(args); }};
  });
}

void add_import(CLI::App& app, Job& job, ImportArgs& args) {
  CLI::App* import_app =
      app.add_subcommand("import", "Make a run of a model of another program, to train or edit it");
  import_app->add_option("model", args.from, kModelHelp)->required();
  import_app->add_option("--out", args.out, "run folder, which must not exist")->required();
  import_app->callback([&] { job = {"olm import", [&] { return import_model(args); }}; });
}

void add_export(CLI::App& app, Job& job, ExportArgs& args) {
  CLI::App* export_app = app.add_subcommand("export", "Write a model for other programs");
  export_app->add_option("model", args.from, kModelHelp)->required();
  export_app->add_option("--to", args.form, "hf: a folder for transformers; gguf: for llama.cpp")
      ->required();
  export_app->add_option("out", args.out, "folder or file to write, which must not exist")
      ->required();
  export_app->add_option("--type", args.type,
                         "of weights: f32, f16, bf16, or, in GGUF, q8_0; as they are if left out");
  export_app->add_option("--shard-size", args.shard_size, "most bytes of a safetensors file")
      ->capture_default_str();
  export_app->add_option("--family", args.family,
                         "model_type of config.json; the first that can say it if left out");
  export_app->add_option("--name", args.name, "name in a GGUF file; the folder's if left out");
  export_app->callback([&] { job = {"olm export", [&] { return export_model(args); }}; });
}

void add_verify(CLI::App& app, Job& job, VerifyArgs& args) {
  CLI::App* verify_app = app.add_subcommand(
      "verify", "Compare two models: ids on hard texts, and logits; status 1 if they differ");
  verify_app->add_option("a", args.a, kModelHelp)->required();
  verify_app->add_option("b", args.b, "another")->required();
  verify_app->add_option("--data", args.data, "further texts: a file or a folder");
  add_texts(*verify_app, "--text", args.texts, "a further text; may come again");
  verify_app->add_option("--tolerance", args.tolerance,
                         "largest difference of logits, as a part of the largest logit");
  verify_app->footer(
      "Both compute in f32. Without --tolerance 1e-4 of the largest logit is allowed where both "
      "hold weights of one type, as sums are rounded; else what the coarser one's rounding of "
      "weights makes of a trained model: 1e-2 for F16, 5e-2 for BF16 and Q8_0, 0.5 for less.");
  verify_app->callback([&] { job = {"olm verify", [&] { return verify(args); }}; });
}

void add_ablate(CLI::App& app, Job& job, AblateArgs& args) {
  CLI::App* ablate_app =
      app.add_subcommand("ablate", "Train variants of a model by turns and compare them");
  ablate_app->add_option("variants", args.variants,
                         "each a model.json, or a preset, model or family by name");
  ablate_app->add_option("--config", args.train.config, "TOML file with what they share");
  ablate_app->add_option("--preset", args.train.preset, "what they share: " + preset_names());
  ablate_app->add_option("--resume", args.resume, "go on with the comparison in this folder");
  ablate_app
      ->add_option("--slice", args.slice,
                   "steps of a variant before the next one's turn, which ends with a "
                   "checkpoint; 0 is about five seconds of them")
      ->capture_default_str();
  add_config_flags(*ablate_app, args.train.flags);
  ablate_app->callback([&] {
    if (args.variants.empty() && args.resume.empty())
      throw CLI::RequiredError("two variants, or --resume");
    job = {"olm ablate", [&] { return ablate(args); }};
  });
}

void add_tokenizer(CLI::App& app, Job& job, TokenizerArgs& args) {
  CLI::App* group = app.add_subcommand("tokenizer", "Train and use tokenizers");
  group->require_subcommand(1);
  CLI::App* train_app = group->add_subcommand("train", "Learn a tokenizer from a text");
  train_app->add_option("--data", args.data, "text: a file or a folder")->required();
  train_app->add_option("--tokenizer,--kind", args.kind, "byte, char or bpe:N with N ids")
      ->capture_default_str();
  train_app->add_option("--out", args.out, "file to write")->capture_default_str();
  train_app->callback([&] {
    job = {"olm tokenizer train", [&] { return tokenizer_train(args); }};
  });
  CLI::App* encode_app = group->add_subcommand("encode", "Print the ids of a text");
  encode_app->add_option("tokenizer", args.path, kTokenizerHelp)->required();
  encode_app->add_option("--text", args.text, "the text; standard input where it is left out");
  encode_app->add_flag("--special-tokens", args.special_tokens,
                       "special tokens in the text get their ids");
  encode_app->add_flag("--add-special-tokens", args.add_special,
                       "add bos and eos where the tokenizer does");
  encode_app->callback([&] {
    job = {"olm tokenizer encode", [&] { return tokenizer_encode(args); }};
  });
  CLI::App* decode_app = group->add_subcommand("decode", "Print the text of ids");
  decode_app->add_option("tokenizer", args.path, kTokenizerHelp)->required();
  decode_app->add_option("ids", args.ids, "the ids; standard input where they are left out");
  decode_app->callback([&] {
    job = {"olm tokenizer decode", [&] { return tokenizer_decode(args); }};
  });
}

/// Flags that all benchmarks have.
template <class Args>
void add_bench_flags(CLI::App& app, Args& args) {
  add_device(app, args.device);
  app.add_option("--threads", args.threads, "0: as many as olm doctor says")->capture_default_str();
  app.add_option("--budget", args.budget, "seconds to go on taking samples of a case")
      ->capture_default_str();
  app.add_option("--gate", args.gate,
                 "drop samples taken while the machine was slower than this fraction of its best, "
                 "or, above 1, than so many GFLOP/s; 0 keeps all")
      ->capture_default_str();
  app.add_option("--json", args.json, "file for the figures; - is standard output");
}

void add_bench_step(CLI::App& group, Job& job, BenchStepArgs& args) {
  CLI::App* step_app = group.add_subcommand("step", "Time whole training steps");
  step_app
      ->add_option("--preset", args.preset,
                   "model: S nanoGPT's character model, M GPT-2 124M, L a Llama of 32 million, or "
                   "tiny, which is there to be quick")
      ->capture_default_str();
  add_dtype(*step_app, args.dtype);
  step_app->add_option("--steps", args.steps, "least number of steps to time")
      ->capture_default_str();
  step_app->add_option("--micro-batches", args.micro_batches,
                       "in which the batch is cut, over all ranks; one for each where left out");
  step_app->add_flag("--recompute", args.recompute, "recompute each block in backward");
  add_bench_flags(*step_app, args);
  step_app->callback([&] { job = {"olm bench step", [&] { return bench_step(args); }, true}; });
}

void add_bench_compare(CLI::App& group, Job& job, BenchCompareArgs& args) {
  CLI::App* compare_app = group.add_subcommand("compare", "Compare two files of figures");
  compare_app->add_option("before", args.before, "file that --json wrote")->required();
  compare_app->add_option("after", args.after, "another")->required();
  compare_app
      ->add_option("--fail-over", args.fail_over,
                   "status 1 where a case is slower by more than this percentage")
      ->capture_default_str();
  compare_app->callback([&] { job = {"olm bench compare", [&] { return bench_compare(args); }}; });
}

struct AllBenchArgs {
  BenchArgs kernels;
  BenchStepArgs step;
  BenchCompareArgs compare;
};

void add_bench(CLI::App& app, Job& job, AllBenchArgs& args) {
  CLI::App* group = app.add_subcommand(
      "bench", "Measure the speed of single kernels, or with step of whole training steps");
  BenchArgs& k = args.kernels;
  group->add_option("kernels", k.kernels, "all, or some of " + bench_names());
  group->add_option("--shape", k.shape,
                    "sizes instead of the usual ones, for one kernel: 4096x768 for ROWSxCOLS");
  group->add_option("--dtype", k.dtype, "f32, bf16 or all")->capture_default_str();
  group->add_option("--reps", k.reps, "least number of samples of a case")->capture_default_str();
  group->add_flag("--cold", k.cold, "take turns of operands, so that no cache holds them");
  group->add_flag("--no-roofs", k.no_roofs,
                  "do not measure what the machine can do at most, to which results are compared");
  add_bench_flags(*group, k);
  add_bench_step(*group, job, args.step);
  add_bench_compare(*group, job, args.compare);
  group->callback([&job, &k, group] {
    if (!group->get_subcommands().empty()) return;
    if (k.kernels.empty()) throw CLI::RequiredError("a kernel, all, step or compare");
    job = {"olm bench", [&k] { return bench_kernels(k); }};
  });
}

}  // namespace

int run(int argc, char** argv) {
  fill_standard_streams();
  // A full file limit and a closed pipe become errors of the write itself.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("olm: train language models, sample from them, look into them");
  app.set_version_flag("--version", version());
  app.require_subcommand(1);
  Job job;
  TrainArgs train_args;
  PlanArgs plan_args;
  SampleArgs sample_args;
  EvalArgs eval_args;
  InspectArgs inspect_args;
  ImportArgs import_args;
  ExportArgs export_args;
  VerifyArgs verify_args;
  AblateArgs ablate_args;
  TokenizerArgs tokenizer_args;
  AllBenchArgs bench_args;
  add_train(app, job, train_args);
  add_plan(app, job, plan_args);
  add_sample(app, job, sample_args);
  add_eval(app, job, eval_args);
  add_inspect(app, job, inspect_args);
  add_import(app, job, import_args);
  add_export(app, job, export_args);
  add_verify(app, job, verify_args);
  add_ablate(app, job, ablate_args);
  add_tokenizer(app, job, tokenizer_args);
  add_bench(app, job, bench_args);
  app.add_subcommand("doctor", "Show what this machine and this build are")->callback([&] {
    job = {"olm doctor", doctor};
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) return refuse_command_line(e.what());
    const bool asks_version = dynamic_cast<const CLI::CallForVersion*>(&e);
    return answer_command_line(asks_version ? "olm --version" : "olm --help",
                               [&] { return app.exit(e); });
  }
  return run_job(job);
}

}  // namespace olm::tools
