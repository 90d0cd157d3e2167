#!/usr/bin/env python3
"""The PyTorch peer of `olm bench step`: forward, backward and AdamW of the same model; one JSON line.

bf16 is autocast: weights in f32, products in bf16.
"""
import argparse
import json
import resource
import statistics
import time

import torch_peer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--preset", choices=["S", "M", "L", "tiny"], required=True)
parser.add_argument("--steps", type=int, default=8, help="least number of steps to time")
torch_peer.add_flags(parser)
args = parser.parse_args()
torch = torch_peer.import_torch(args.threads, args.device)
on_cpu = args.device == "cpu"
wait = torch_peer.wait_for(torch, args.device)

from torch_models import LM, PRESETS  # noqa: E402

preset = PRESETS[args.preset]
model = LM(preset)
loss_of = torch.compile(model) if args.compile else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1,
                              **({} if on_cpu else dict(fused=True)))
data = torch.randint(0, preset["V"], (preset["B"], preset["T"] + 1))
ids, target = data[:, :-1].contiguous(), data[:, 1:].contiguous()


def step(parts=on_cpu):
    """When each part ended, page faults, and the loss. Without `parts` a device may be busy with one when the next
    begins, and only the whole time means something."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = [time.perf_counter()]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        with torch_peer.attention_by(torch, args.sdpa):
            loss = loss_of(ids, target)
    if parts:
        wait()
    times.append(time.perf_counter())
    loss.backward()
    if parts:
        wait()
    times.append(time.perf_counter())
    optimizer.step()
    wait()
    times.append(time.perf_counter())
    return times, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, loss.item()


first = step()[2]
step()
canary = torch_peer.load_canary(args.canary, args.threads)
steps, kept, taken = torch_peer.sample_series(step, canary, args.gate, args.steps, args.budget)
whole = sorted(times[3] - times[0] for times, _, _ in steps)
by_parts = steps if on_cpu else [step(True) for _ in range(args.steps)]


def part(i):
    return round(1e3 * statistics.median(times[i + 1] - times[i] for times, _, _ in by_parts), 2)


# Two operations for each weight that a token multiplies, twice that in backward; full attention scores.
weights = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith(("tok", "pos")))
if not preset["llama"]:
    weights += preset["V"] * preset["d"]
tokens = preset["B"] * preset["T"]
flop = 3 * tokens * (2 * weights + 4 * preset["layers"] * preset["T"] * preset["d"])
median = statistics.median(whole)
capability = [line.split(":")[1].strip() for line in torch.__config__.show().splitlines() if "capability" in line]
print(json.dumps(dict(
    what="torch_train_step", version=torch.__version__, config=args.preset, dtype=args.dtype, threads=args.threads,
    isa=capability[0] if capability else "unknown", params=sum(p.numel() for p in model.parameters()),
    step_ms=round(1e3 * median, 2), min_ms=round(1e3 * whole[0], 2), max_ms=round(1e3 * whole[-1], 2),
    tokens_per_s=round(tokens / median, 1), best_tokens_per_s=round(tokens / whole[0], 1),
    forward_ms=part(0), backward_ms=part(1), optimizer_ms=part(2),
    model_gflop=round(flop / 1e9, 2), model_gflops=round(flop / median / 1e9, 1),
    faults_per_step=int(statistics.median(faults for _, faults, _ in steps)),
    peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, kept=kept, steps=taken,
    **({} if on_cpu else dict(peak_device_mib=torch.cuda.max_memory_allocated() >> 20)), device=args.device,
    loss_first=round(first, 4), loss_last=round(steps[-1][2], 4))))
