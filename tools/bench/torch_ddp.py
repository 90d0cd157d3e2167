#!/usr/bin/env python3
"""A rank of PyTorch's DistributedDataParallel over Gloo, the peer of `mpirun -n N olm bench step`; the first prints
one JSON line.

Its place is in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them. Each rank computes an equal part
of the batch of torch_step.py.
"""
import argparse
import json
import os
import statistics
import time

import torch_peer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--preset", choices=["S", "M", "L", "tiny"], required=True)
parser.add_argument("--steps", type=int, default=8, help="number of steps to time")
torch_peer.add_flags(parser)
args = parser.parse_args()
torch = torch_peer.import_torch(args.threads)
import torch.distributed as dist  # noqa: E402

from torch_models import LM, PRESETS  # noqa: E402

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
preset = PRESETS[args.preset]
model = torch.nn.parallel.DistributedDataParallel(LM(preset))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
data = torch.randint(0, preset["V"], (preset["B"], preset["T"] + 1)).chunk(ranks)[rank]
ids, target = data[:, :-1].contiguous(), data[:, 1:].contiguous()


def step():
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        loss = model(ids, target)
    loss.backward()
    optimizer.step()
    loss = loss.item()
    dist.barrier()
    return time.perf_counter() - begin, loss


first = step()[1]
step()
steps = [step() for _ in range(args.steps)]
whole = sorted(seconds for seconds, _ in steps)
if rank == 0:
    print(json.dumps(dict(
        what="torch_ddp_step", version=torch.__version__, config=args.preset, dtype=args.dtype, ranks=ranks,
        threads=args.threads, params=sum(p.numel() for p in model.parameters()),
        step_ms=round(1e3 * statistics.median(whole), 2), min_ms=round(1e3 * whole[0], 2),
        max_ms=round(1e3 * whole[-1], 2), loss_first=round(first, 4), loss_last=round(steps[-1][1], 4))))
dist.destroy_process_group()
