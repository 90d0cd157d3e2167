"""What the PyTorch peers share: flags, and samples between canaries as tools/bench/canary.h takes them."""
import ctypes
import os
import time


def add_flags(parser):
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=float, default=0.5, help="seconds to go on timing each case for")
    parser.add_argument("--gate", type=float, default=0, help="keep samples between canaries of this many GFLOP/s")
    parser.add_argument("--canary", help="libolm_canary.so of the build")


def import_torch(threads):
    """PyTorch with so many threads in every library it may use."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    return torch


def load_canary(path, threads):
    """A function that returns GFLOP/s now; infinite without a library."""
    if not path:
        return lambda: float("inf")
    probe = ctypes.CDLL(os.path.abspath(path)).olm_canary_gflops
    probe.restype = ctypes.c_double
    return lambda: probe(ctypes.c_int(threads))


def sample_series(take, canary, gate, least, budget, patience=1):
    """Values of take() whose canaries before and after reached the gate, or all if fewer than three did;
    how many did; how many there were."""
    samples, begin, before = [], time.perf_counter(), canary()
    while True:
        value = take()
        after = canary()
        samples.append((value, min(before, after) >= gate))
        before = after
        kept = [value for value, passed in samples if passed]
        elapsed = time.perf_counter() - begin
        if len(samples) >= least and elapsed >= budget and (len(kept) >= 4 or elapsed >= patience * budget):
            return (kept if len(kept) >= 3 else [value for value, _ in samples]), len(kept), len(samples)


def time_calls(calls, canary, gate, least, budget):
    """Samples that hold microseconds of each call, made by turns; and the counts of sample_series."""
    inner = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        inner.append(max(1, -int(-0.01 // max(time.perf_counter() - start, 1e-9))))

    def take():
        times = []
        for call, count in zip(calls, inner):
            call()  # wakes the threads, which slept through the canary
            begin = time.perf_counter()
            for _ in range(count):
                call()
            times.append(1e6 * (time.perf_counter() - begin) / count)
        return times

    return sample_series(take, canary, gate, least, budget, patience=5)
