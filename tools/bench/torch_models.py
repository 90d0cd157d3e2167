"""The language models of `olm bench step` in PyTorch, written the way its users write them."""
import torch
import torch.nn as nn
import torch.nn.functional as F

PRESETS = {
    "S": dict(layers=6, d=384, heads=6, kv=6, hidden=1536, T=256, B=12, V=65, llama=False, bias=False, tanh=False),
    "M": dict(layers=12, d=768, heads=12, kv=12, hidden=3072, T=64, B=4, V=50257, llama=False, bias=True, tanh=True),
    "L": dict(layers=8, d=512, heads=8, kv=4, hidden=1408, T=512, B=8, V=8192, llama=True, bias=False, tanh=False),
    "tiny": dict(layers=2, d=32, heads=2, kv=2, hidden=128, T=16, B=2, V=65, llama=False, bias=False, tanh=False),
}


def rms_norm(x, weight, eps=1e-5):
    if hasattr(F, "rms_norm"):
        return F.rms_norm(x, weight.shape, weight, eps)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def causal_attention(q, k, v, mask):
    """q, k, v: [B, H, T, D]; mask: [T, T], true where a key comes after the query."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    score = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return score.masked_fill(mask, float("-inf")).softmax(-1).to(v.dtype) @ v


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return rms_norm(x, self.weight)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h, self.kv, self.dh, self.rope = c["heads"], c["kv"], c["d"] // c["heads"], c["llama"]
        self.qkv = nn.Linear(c["d"], (self.h + 2 * self.kv) * self.dh, bias=c["bias"])
        self.out = nn.Linear(c["d"], c["d"], bias=c["bias"])
        self.register_buffer("mask", torch.ones(c["T"], c["T"], dtype=torch.bool).triu(1))
        if self.rope:
            inverse = 10000.0 ** (-torch.arange(0, self.dh, 2).float() / self.dh)
            angle = torch.outer(torch.arange(c["T"]).float(), inverse)
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

    def rotate(self, x, at):
        cos, sin = self.cos[at : at + x.shape[2]], self.sin[at : at + x.shape[2]]
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    def shared(self, x):
        return x if self.kv == self.h else x.repeat_interleave(self.h // self.kv, 1)

    def forward(self, x, cache=None, at=0):
        """cache: keys and values [B, kv, capacity, dh] that already hold `at` tokens; then x is one token."""
        B, T, C = x.shape
        q, k, v = self.qkv(x).split([self.h * self.dh, self.kv * self.dh, self.kv * self.dh], -1)
        q = q.view(B, T, self.h, self.dh).transpose(1, 2)
        k = k.view(B, T, self.kv, self.dh).transpose(1, 2)
        v = v.view(B, T, self.kv, self.dh).transpose(1, 2)
        if self.rope:
            q, k = self.rotate(q, at), self.rotate(k, at)
        if cache is None:
            y = causal_attention(q, self.shared(k), self.shared(v), self.mask)
        else:
            cache[0][:, :, at], cache[1][:, :, at] = k[:, :, 0], v[:, :, 0]
            k, v = self.shared(cache[0][:, :, : at + 1]), self.shared(cache[1][:, :, : at + 1])
            y = ((q @ k.transpose(-2, -1)) * self.dh**-0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.llama = c["d"], c["llama"]
        norm = RMSNorm if self.llama else nn.LayerNorm
        self.n1, self.attn, self.n2 = norm(d), Attention(c), norm(d)
        self.up, self.down = nn.Linear(d, c["hidden"], bias=c["bias"]), nn.Linear(c["hidden"], d, bias=c["bias"])
        if self.llama:
            self.gate = nn.Linear(d, c["hidden"], bias=False)
        self.approximate = "tanh" if c["tanh"] else "none"

    def forward(self, x, cache=None, at=0):
        x = x + self.attn(self.n1(x), cache, at)
        y = self.n2(x)
        if self.llama:
            return x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x + self.down(F.gelu(self.up(y), approximate=self.approximate))


class LM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tok = nn.Embedding(c["V"], c["d"])
        self.pos = None if c["llama"] else nn.Embedding(c["T"], c["d"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm = (RMSNorm if c["llama"] else nn.LayerNorm)(c["d"])
        self.head = nn.Linear(c["d"], c["V"], bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        if not c["llama"]:
            self.head.weight = self.tok.weight

    def forward(self, ids, target):
        """The mean loss of a batch."""
        x = self.tok(ids)
        if self.pos is not None:
            x = x + self.pos(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), target.view(-1))

    def next_logits(self, token, caches, at):
        """Logits [1, 1, V] behind one token [1, 1] at a place, with a cache for each block."""
        x = self.tok(token)
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache, at)
        return self.head(self.norm(x))
