"""What the PyTorch peers share: flags, and samples between canaries as tools/bench/canary.h takes them."""
import contextlib
import ctypes
import os
import time


def add_flags(parser):
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--sdpa", choices=["auto", "flash", "cudnn", "efficient", "math"], default="auto",
                        help="what computes attention; auto leaves it to PyTorch")
    parser.add_argument("--compile", action="store_true", help="run what torch.compile makes of each call")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=float, default=0.5, help="seconds to go on timing each case for")
    parser.add_argument("--gate", type=float, default=0, help="keep samples between canaries of this many GFLOP/s")
    parser.add_argument("--canary", help="libolm_canary.so of the build")


def import_torch(threads, device="cpu"):
    """PyTorch with so many threads in every library it may use, which makes tensors on a device."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
    if device != "cpu":
        torch.set_default_device(device)
    torch.manual_seed(1)
    return torch


def wait_for(torch, device):
    """A function that returns when the device has done all that was asked of it."""
    return (lambda: torch.cuda.synchronize(device)) if device != "cpu" else (lambda: None)


def attention_by(torch, name):
    """A context in which scaled_dot_product_attention is computed by one backend."""
    if name == "auto":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(dict(flash=SDPBackend.FLASH_ATTENTION, cudnn=SDPBackend.CUDNN_ATTENTION,
                            efficient=SDPBackend.EFFICIENT_ATTENTION, math=SDPBackend.MATH)[name])


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


def time_calls(calls, canary, gate, least, budget, wait):
    """Samples that hold microseconds of each call, made by turns; and the counts of sample_series. Calls may only
    queue work: wait() is called after so many of them as make a sample."""
    inner = []
    for call in calls:
        call()
        call()
        wait()
        start = time.perf_counter()
        call()
        wait()
        inner.append(max(1, -int(-0.01 // max(time.perf_counter() - start, 1e-9))))

    def take():
        times = []
        for call, count in zip(calls, inner):
            call()  # wakes the threads, which slept through the canary
            wait()
            begin = time.perf_counter()
            for _ in range(count):
                call()
            wait()
            times.append(1e6 * (time.perf_counter() - begin) / count)
        return times

    return sample_series(take, canary, gate, least, budget, patience=5)
