#!/usr/bin/env python3
"""PyTorch peers of `olm bench KERNEL`: the same names, shapes and passes; one JSON object.

bf16 means operands and parameters in bf16; those of moe are f32, as in libolm, under autocast. What PyTorch fuses in
newer versions is used where it is there. moe is the layer of OpenLanguageModel (pip install openlanguagemodel), a loop
over experts, and beside it the dense network of as many operations.
"""
import argparse
import json
import statistics

import torch_peer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kernel")
parser.add_argument("--shape", action="append", required=True, help="such as 4096x768; may be repeated")
parser.add_argument("--reps", type=int, default=7, help="least number of samples of each case")
torch_peer.add_flags(parser)
args = parser.parse_args()
torch = torch_peer.import_torch(args.threads, args.device)

import torch.nn.functional as F  # noqa: E402

from torch_models import LM, causal_attention, rms_norm  # noqa: E402

DTYPE = torch.float32 if args.dtype == "f32" else torch.bfloat16
canary = torch_peer.load_canary(args.canary, args.threads)
wait = torch_peer.wait_for(torch, args.device)
cases = []


def report(name, shape, what, call, beside=None):
    """Of a call; with `beside`, another, also the ratio of their times by turns."""
    samples, kept, taken = torch_peer.time_calls([call] + ([beside] if beside else []), canary, args.gate, args.reps,
                                                 args.budget, wait)
    us = [times[0] for times in samples]
    case = dict(name=name, shape="x".join(map(str, shape)), dtype=args.dtype, us=round(statistics.median(us), 3),
                min_us=round(min(us), 3), max_us=round(max(us), 3), kept=kept, samples=taken, **{"pass": what})
    if beside:
        case.update(beside_us=round(statistics.median(times[1] for times in samples), 3),
                    ratio=round(statistics.median(times[0] / times[1] for times in samples), 4))
    cases.append(case)


def leaf(*shape):
    return torch.randn(*shape, dtype=DTYPE).requires_grad_()


def passes(leaves, call):
    """Forward without recording, and forward with the gradients of all leaves."""
    if args.compile:
        call = torch.compile(call)

    def forward():
        with torch.no_grad():
            call(*leaves)

    results = call(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    gradients = [torch.randn_like(y) if y.dim() else torch.ones_like(y) for y in results]
    del results

    def both():
        ys = call(*leaves)
        torch.autograd.grad(ys if isinstance(ys, tuple) else (ys,), leaves, gradients, allow_unused=True)

    return {"forward": forward, "forward+backward": both}


def op(name, shape, leaves, call):
    for what, run in passes(leaves, call).items():
        report(name, shape, what, run)


def gemm(m, n, k):
    shape = (m, n, k)
    with torch.no_grad():
        a, b = torch.rand(m, k, dtype=DTYPE), torch.rand(k, n, dtype=DTYPE)
        at, bt = a.t().contiguous(), b.t().contiguous()
        report("gemm NT", shape, "forward", lambda: a @ bt.t())
        report("gemm NN", shape, "forward", lambda: a @ b)
        report("gemm TN", shape, "forward", lambda: at.t() @ b)


def flash_attention(b, h, t, d):
    mask = torch.ones(t, t, dtype=torch.bool).triu(1)
    op("flash_attention", (b, h, t, d), [leaf(b, h, t, d) for _ in range(3)],
       lambda q, k, v: causal_attention(q, k, v, mask))


def add_norm(rows, cols):
    def add_rms_norm(x, residual, w):
        total = x + residual
        return total, rms_norm(total, w)

    def add_layer_norm(x, residual, w, bias):
        total = x + residual
        return total, F.layer_norm(total, (cols,), w, bias)

    x, residual, w, bias = leaf(rows, cols), leaf(rows, cols), leaf(cols), leaf(cols)
    op("add_rms_norm", (rows, cols), [x, residual, w], add_rms_norm)
    op("add_layer_norm", (rows, cols), [x, residual, w, bias], add_layer_norm)


def swiglu(rows, hidden):
    def call(x):
        value, gate = x.chunk(2, -1)
        return value * F.silu(gate)

    op("swiglu", (rows, hidden), [leaf(rows, 2 * hidden)], call)


def gelu(rows, cols):
    op("gelu", (rows, cols), [leaf(rows, cols)], F.gelu)
    op("gelu_tanh", (rows, cols), [leaf(rows, cols)], lambda x: F.gelu(x, approximate="tanh"))


def cross_entropy(rows, classes):
    target = torch.randint(0, classes, (rows,))
    op("cross_entropy", (rows, classes), [leaf(rows, classes)], lambda x: F.cross_entropy(x.float(), target))


def linear_cross_entropy(rows, classes, d):
    target = torch.randint(0, classes, (rows,))
    op("linear_cross_entropy", (rows, classes, d), [leaf(rows, d), leaf(classes, d)],
       lambda x, w: F.cross_entropy((x @ w.t()).float(), target))


def embedding(rows, vocab, d):
    ids = torch.randint(0, vocab, (rows,))
    op("embedding", (rows, vocab, d), [leaf(vocab, d)], lambda w: F.embedding(ids, w))


def rope(b, h, t, d):
    angle = torch.outer(torch.arange(t).float(), 10000.0 ** (-torch.arange(0, d, 2).float() / d))
    cos, sin = (f(angle).to(DTYPE)[:, None] for f in (torch.cos, torch.sin))

    def call(x):
        a, c = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - c * sin, a * sin + c * cos), -1).flatten(-2)

    def halves(x):
        a, c = x.chunk(2, -1)
        return torch.cat((a * cos - c * sin, a * sin + c * cos), -1)

    op("rope", (b, h, t, d), [leaf(b, t, h, d)], call)
    op("rope by halves", (b, h, t, d), [leaf(b, t, h, d)], halves)


def adamw(count, rows, cols):
    parameters = [torch.randn(rows, cols, requires_grad=True) for _ in range(count)]
    gradients = [torch.randn_like(p) for p in parameters]
    try:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)
    except (RuntimeError, TypeError):  # only newer versions fuse it on the CPU
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1)

    def give():
        for p, g in zip(parameters, gradients):
            p.grad = g

    def step():
        give()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    give()
    report("adamw", (count, rows, cols), "update", optimizer.step)
    report("adamw", (count, rows, cols), "step with clipping", step)


def muon(count, rows, cols):
    """PyTorch 2.9 or later; it multiplies matrices in bf16 alone."""
    if args.dtype != "bf16" or not hasattr(torch.optim, "Muon"):
        return
    parameters = [torch.randn(rows, cols, requires_grad=True) for _ in range(count)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer = torch.optim.Muon(parameters, lr=1e-4, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    report("muon", (count, rows, cols), "update", optimizer.step)


def generate(layers, d, tokens):
    model = LM(dict(layers=layers, d=d, heads=d // 64, kv=d // 128, hidden=11 * d // 4, T=tokens + 1, B=1, V=16 * d,
                    llama=True, bias=False, tanh=False)).to(DTYPE)
    room = (1, d // 128, tokens + 1, 64)

    def call():
        with torch.inference_mode():
            caches = [(torch.empty(room, dtype=DTYPE), torch.empty(room, dtype=DTYPE)) for _ in range(layers)]
            token = torch.ones(1, 1, dtype=torch.long)
            for at in range(tokens):
                token = model.next_logits(token, caches, at).argmax(-1)

    report("generate", (layers, d, tokens), "forward", call)


def moe(rows, d, hidden, experts):
    from olm.nn.feedforward import SwiGLUFFN
    from olm.nn.feedforward.swiglu_moe import SwiGLUMoEFFN

    def prepare(module):
        def call(x, *_):
            with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
                return module(x)

        return passes([leaf(1, rows, d), *module.parameters()], call)

    top_k = 2
    mixture = prepare(SwiGLUMoEFFN(d, num_experts=experts, top_k=top_k, hidden_dim=hidden // top_k, bias=False))
    dense = prepare(SwiGLUFFN(d, hidden_dim=hidden, bias=False))
    for what in mixture:
        report("moe", (rows, d, hidden, experts), what, mixture[what], dense[what])


KERNELS = dict(
    gemm=gemm, flash_attention=flash_attention, add_norm=add_norm, swiglu=swiglu, gelu=gelu,
    rms_norm=lambda r, c: op("rms_norm", (r, c), [leaf(r, c), leaf(c)], rms_norm),
    layer_norm=lambda r, c: op("layer_norm", (r, c), [leaf(r, c), leaf(c), leaf(c)],
                               lambda x, w, b: F.layer_norm(x, (c,), w, b)),
    softmax=lambda r, c: op("softmax", (r, c), [leaf(r, c)], lambda x: x.softmax(-1)),
    cross_entropy=cross_entropy, linear_cross_entropy=linear_cross_entropy, embedding=embedding, rope=rope,
    adamw=adamw, muon=muon, generate=generate, moe=moe)
with torch_peer.attention_by(torch, args.sdpa):
    for text in args.shape:
        KERNELS[args.kernel](*map(int, text.split("x")))
print(json.dumps(dict(what="torch_bench", version=torch.__version__, device=args.device, threads=args.threads,
                      cases=cases)))
