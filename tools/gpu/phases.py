"""The phases of tools/gpu/accept. Each runs commands in its Session and notes rows."""
import concurrent.futures
import glob
import json
import math
import os
import pathlib
import platform
import random
import shutil

REPEATS = "100"
CARD = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"


# ---- env ---------------------------------------------------------------------------------------

def env(s):
    """What the machine is, and the ceilings of its card. Settings of the card are read, never changed."""
    s.row("machine", "passed", note=f"{platform.machine()}, {os.cpu_count()} cores, glibc {platform.libc_ver()[1]}",
          kernel=platform.release())
    if not s.dry:
        done = s.run(["nvidia-smi", f"--query-gpu={CARD}", "--format=csv,noheader,nounits"], 15)
        facts = dict(zip(CARD.split(","), done.text.strip().splitlines()[0].split(", "))) if done.status == 0 else {}
        s.row("card", "passed" if facts else "failed", done.seconds,
              ", ".join(f"{facts[k]}" for k in ("name", "driver_version", "compute_cap")) if facts else done.why(), **facts)
        describe_python(s)
        for tool in ("nvcc", "compute-sanitizer"):
            s.row(tool, "passed" if find_tool(tool) else "skipped", note=find_tool(tool) or "absent")
    s.check("olm doctor", [s.program("olm"), "doctor"], 20)
    size = ["--megabytes", "1", "--size", "64"] if s.dry else []
    if done := s.check("olm_ceilings", [s.program("olm_ceilings")] + size, 30):
        figures = json.loads(done.text)
        s.row("ceilings", "passed", note="" if s.dry else
              f"copy {figures['copy_tb_s']:.2f} TB/s, GEMM in bf16 {figures['gemm_bf16_tflop_s']:.0f} TFLOP/s, "
              f"launch {figures['launch_us']:.1f} us", **figures)


def describe_python(s):
    code = ("import importlib.util as u, json, torch; print(json.dumps(dict(torch=torch.__version__, "
            "cuda=torch.version.cuda, **{m: bool(u.find_spec(m)) for m in ('triton', 'liger_kernel', 'flash_attn')})))")
    done = s.run([s.python, "-c", code], 30)
    facts = json.loads(done.text) if done.status == 0 else {}
    s.row("PyTorch", "passed" if facts else "skipped", done.seconds,
          ", ".join(f"{k} {v}" for k, v in facts.items()) if facts else done.why(), **facts)


def find_tool(name):
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), "/usr/local/cuda"]
    return shutil.which(name) or next((p for home in places for p in glob.glob(f"{home}/bin/{name}")), None)


# ---- conform -----------------------------------------------------------------------------------

def conform(s):
    """Every wrapped instruction against plain arithmetic, and against what other cards wrote."""
    s.check("plain arithmetic", [s.program("olm_conform"), "--write", s.out.resolve()], 15)
    for file in sorted(s.golden.glob("*.json")):
        s.check(file.stem, [s.program("olm_conform"), "--compare", file], 15)


# ---- correct -----------------------------------------------------------------------------------

def test_environment(s, workers, **more):
    threads = max(1, (os.cpu_count() or 2) // workers)
    return dict(OLM_TEST_DEVICE="cuda", OLM_NUM_THREADS=str(threads), OLM_FIXTURES=str(s.fixtures), **more)


def all_suites(s):
    done = s.run([s.program("olm_tests"), "--list-test-suites", "--no-intro"], 20)
    return [line for line in done.text.splitlines() if "/" in line and " " not in line]


def summary_of(text):
    """doctest's count of assertions, and the first that failed."""
    for line in text.splitlines():
        if "assertions:" in line:
            return line.split("assertions:")[1].split("|")[0].strip()
    return ""


def correct(s):
    """The op suites on the card against f64 on the CPU, layers against their fixtures, and the same bits each time."""
    workers = 2 if s.dry else max(1, min(8, (os.cpu_count() or 2) // 2))
    tests = s.program("olm_tests")
    if tests is None:
        return s.row("olm_tests", "failed", note="the program is missing")
    names = all_suites(s)
    fixtures = {"nn/curves", "nn/attention_parity", "nn/attention_layers", "nn/embeddings", "nn/norms", "nn/feedforward",
                "nn/moe", "nn/families"}
    chosen = [n for n in names if n.startswith(("ops/", "kernels/cuda/")) and n != "kernels/cuda/determinism"]
    chosen += [n for n in names if n in fixtures]
    repeats = {} if s.dry else dict(OLM_REPEATS=REPEATS)
    jobs = [(f"same bits, {t}", [f"--test-suite=kernels/cuda/determinism", f"--test-case={t}*"], repeats)
            for t in ("f32", "bf16", "f16")]
    jobs += [(name, [f"--test-suite={name}"], {}) for name in chosen]

    def run(job):
        name, flags, more = job
        if s.left() < 1:
            return s.row(name, "failed", note="no time was left")
        done = s.run([tests, "--no-intro"] + flags, 600, **test_environment(s, workers, **more))
        ok = done.status == 0 and not done.timed_out
        count = summary_of(done.text)
        if ok and count in ("", "0"):
            return s.row(name, "failed", done.seconds, "it asserted nothing")
        wrong = [line.strip() for line in done.text.splitlines() if "relative L2" in line or "bits differ" in line]
        return s.row(name, "passed" if ok else "failed", done.seconds,
                     "" if ok else (wrong[0][:160] if wrong else done.why()), assertions=count)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, jobs))


# ---- ranks -------------------------------------------------------------------------------------

def ranks(s):
    """Operations among cards, a thread for each, at most four: NCCL wants a card for each rank."""
    cards = 2 if s.dry else len(s.run(["nvidia-smi", "-L"], 15).text.strip().splitlines())
    if cards < 2:
        s.row("cards", "skipped", note=f"{cards} card; ranks want two")
    environment = dict(OLM_CUDA_EMULATOR="devices=2") if s.dry else {}
    s.check("olm_tests engine/cuda/ranks", [s.program("olm_tests"), "--no-intro", "--test-suite=engine/cuda/ranks"], 60,
            **test_environment(s, 1, **environment))


# ---- sanitize ----------------------------------------------------------------------------------

def sanitize(s):
    """compute-sanitizer's tools on tiny shapes of every op, forward and backward. Dry: the emulator's watchers."""
    programs = [("ops", "olm_tests", ["--no-intro", "--test-suite=kernels/cuda/determinism", f"--test-case={t}*"])
                for t in ("f32", "bf16", "f16")]
    programs += [("conform", "olm_conform", [])]
    jobs = []
    if s.dry:
        for name, program in (("address", "olm_tests_asan"), ("race", "olm_tests_race")):
            if s.program(program) is None:
                s.row(name, "skipped", note=f"{program} is not built")
                continue
            jobs += [(f"{name}, {flags[-1][12:-1]}", [s.program(program)] + flags) for _, _, flags in programs[:3]]
    else:
        sanitizer = find_tool("compute-sanitizer")
        if sanitizer is None:
            return s.row("compute-sanitizer", "skipped", note="absent")
        for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
            for what, program, flags in programs:
                wrap = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", "--print-limit", "5"]
                label = flags[-1][12:-1] if flags else what
                jobs.append((f"{tool}, {label}", wrap + [s.program(program)] + flags))
    workers = 2 if s.dry else max(1, min(8, (os.cpu_count() or 2) // 2))

    def run(job):
        name, command = job
        if None in command:
            return s.row(name, "failed", note="the program is missing")
        if s.left() < 1:
            return s.row(name, "failed", note="no time was left")
        done = s.run(command, 600 if s.dry else 60, **test_environment(s, workers))
        said = [line.strip("= ") for line in done.text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        ok = done.status == 0 and not done.timed_out
        return s.row(name, "passed" if ok else "failed", done.seconds, "" if ok else "; ".join(said[-1:]) or done.why())

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, jobs))


# ---- train -------------------------------------------------------------------------------------

def write_text(path):
    draw = random.Random(1)
    words = "the king of light and river stone went down to sea a song was heard in the hills".split()
    path.write_text(" ".join(draw.choice(words) for _ in range(20000)))
    return path


def losses_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def train(s):
    """A tiny GPT and a mixture: 50 steps on the card against the CPU's curve; a run that goes on ends with the same bits."""
    olm = s.program("olm")
    text = write_text(s.scratch / "text")
    width, context, batch = ("32", "32", "4") if s.dry else ("128", "128", "8")
    models = dict(dense=["--model.family", "gpt2", "--model.dropout", "0.1"],
                  mixture=["--model.family", "mixtral", "--model.num_experts", "4", "--model.intermediate_size", "64"])
    common = ["--data", text, "--steps", "50", "--checkpoint-every", "20", "--eval-every", "25", "--sample-every", "0",
              "--batch-size", batch, "--context", context, "--model.num_layers", "2", "--model.embed_dim", width,
              "--model.num_heads", "2", "--optim.warmup_steps", "10"]
    for name, flags in models.items():
        for dtype, tolerance in (("f32", 1e-3), ("bf16", 3e-2)):
            runs = {device: s.scratch / f"{name}-{dtype}-{device}" for device in ("cpu", "cuda")}
            done = [s.check(f"{name}, {dtype}, on {device}", [olm, "train", "--device", device, "--dtype", dtype, "--out",
                                                             run] + common + flags, 300) for device, run in runs.items()]
            if all(done):
                compare_curves(s, f"{name}, {dtype}, curve", runs, tolerance)
                resume(s, olm, f"{name}, {dtype}, resumed", runs["cuda"])
    use(s, olm, s.scratch / "dense-f32-cuda", text)


def compare_curves(s, check, runs, tolerance):
    cpu, cuda = (losses_of(run) for run in runs.values())
    worst = max((abs(a - b) / abs(a) if math.isfinite(b) else math.inf for a, b in zip(cpu, cuda)), default=math.inf)
    ok = len(cpu) == len(cuda) == 50 and worst <= tolerance and cuda[-1] < 0.9 * cuda[0]
    s.row(check, "passed" if ok else "failed", note=f"loss {cuda[0]:.3f} to {cuda[-1]:.3f}, off by {worst:.1e} of "
          f"{tolerance:.0e}", worst=worst, cpu=cpu, cuda=cuda)


def resume(s, olm, check, whole):
    """The run again from its checkpoint of step 20."""
    part = whole.with_name(whole.name + "-resumed")
    shutil.copytree(whole, part)
    for later in ("000040", "000050"):
        shutil.rmtree(part / "checkpoints" / later)
    (part / "model.safetensors").unlink()
    done = s.run([olm, "train", "--resume", part], 300)
    same = done.status == 0 and (part / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    same = same and losses_of(part) == losses_of(whole)
    s.row(check, "passed" if same else "failed", done.seconds,
          "" if same else ("bits differ" if done.status == 0 else done.why()))


def use(s, olm, run, text):
    """Evaluation on the card against the CPU's, and a sample."""
    losses = {}
    for device in ("cpu", "cuda"):
        if done := s.check(f"eval on {device}", [olm, "eval", run, "--data", text, "--json", "--device", device], 120):
            losses[device] = json.loads(done.text)["loss"]
    if len(losses) == 2:
        off = abs(losses["cuda"] - losses["cpu"]) / losses["cpu"]
        s.row("evaluation", "passed" if off < 1e-4 else "failed", note=f"off by {off:.1e} of 1e-04", **losses)
    s.check("sample", [olm, "sample", run, "--prompt", "the ", "--tokens", "20", "--device", "cuda"], 120)


# ---- bench -------------------------------------------------------------------------------------

# What is compared, most telling first, with the seconds that each may take.
COMPARISONS = [
    ("step, eager", 45, ["step", "--preset", "M", "--rounds", "2", "--budget", "3"]),
    ("attention, flash", 25, ["ops", "flash_attention", "--sdpa", "flash", "--rounds", "1"]),
    ("attention, cudnn", 25, ["ops", "flash_attention", "--sdpa", "cudnn", "--rounds", "1"]),
    ("step, compiled", 80, ["step", "--preset", "M", "--compile", "--rounds", "1", "--budget", "3"]),
    ("ops, eager", 100, ["ops", "gemm", "rms_norm", "swiglu", "linear_cross_entropy", "adamw", "softmax", "--rounds", "1"]),
    ("ops, compiled", 60, ["ops", "rms_norm", "swiglu", "--compile", "--rounds", "1"]),
    ("step of the Llama, eager", 45, ["step", "--preset", "L", "--rounds", "2", "--budget", "3"]),
]


def bench(s):
    """Training steps and kernels against PyTorch by turns, in bf16."""
    shared = ["--device", "cuda", "--dtype", "bf16", "--olm", s.program("olm"), "--python", s.python]
    for name, limit, flags in COMPARISONS:
        if s.left() < 10:
            s.row(name, "skipped", note="no time was left")
            continue
        file = s.scratch / "versus.json"
        file.unlink(missing_ok=True)
        done = s.run([s.python, s.bench / "versus_torch"] + flags + shared + ["--json", file], limit)
        ok = done.status == 0 and not done.timed_out
        s.row(name, "passed" if ok else "failed", done.seconds, "" if ok else done.why())
        if not file.exists():  # stopped on the way: what was printed until then
            for line in done.text.splitlines():
                if "torch/olm" in line:
                    s.row(f"{name}: {line[:40].strip()}", "passed", note=line[40:].strip())
            continue
        for case in json.loads(file.read_text())["cases"]:
            s.row(f"{name}: {case['case']}"[:60], "passed", note=f"olm {case['olm']:.1f} {case['unit']}, torch "
                  f"{case['torch']:.1f}, torch/olm {case['ratio']:.2f} ({case['ratio_min']:.2f} to {case['ratio_max']:.2f})",
                  **{k: v for k, v in case.items() if k not in ("case", "runs")})
