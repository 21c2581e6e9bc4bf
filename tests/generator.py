"""Modules drawn at random, each known to be a map of single examples or not, and what the engine
says of them against automatic differentiation of one example at a time.

`python -m tests.generator --seeds 0 5000` draws thousands; --record keeps the counts in
data/results/breaking-modules.csv. A module is a chain of blocks on features (n, WIDTH): layers of
every kind, used in every way, maybe one fault among them, and maybe a change between two calls.
What is right: the number, or one line of ValueError where the module has a fault. The oracle is a
module of its own, built anew in double precision. A map of single examples may be refused in three
cases: PyTorch itself has no gradient of it, as where an activation overwrites what the layer before
must keep; it branches on the sign of a number in bfloat16, which may be another in a batch; or the
oracle's Jacobian, in the module's own types and at weights that differ by a rounding, loses half
the digits. By as much as that kernels may be off: of a network that blows rounding up no way gives
more. In bfloat16 layers are left out that do so.
"""

import argparse
import math
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from tangents.empirical import jacobian, ntk
from tangents.factored import OUTPUTS
from tangents.lab.store import seal

RECORD = Path(__file__).resolve().parents[1] / "data" / "results" / "breaking-modules.csv"
WIDTH = 6


class Of(nn.Module):
    """A function of (module, features), with layers."""

    def __init__(self, function: Callable, **layers: nn.Module):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, h):
        return self.function(self, h)


# ---- layers, each from features (n, WIDTH) to such


def linear(bias: bool = True) -> nn.Module:
    return nn.Linear(WIDTH, WIDTH, bias)


def conv1d(**options) -> Callable[[], nn.Module]:
    def build():
        layer = nn.Conv1d(2, 4, 2, **options)
        size = layer(torch.zeros(1, 2, 3)).numel()
        return Of(lambda m, h: m.read(m.a(h.view(-1, 2, 3)).flatten(1)), a=layer,
                  read=nn.Linear(size, WIDTH))  # fmt: skip

    return build


def conv2d(kernel: tuple = (2, 1), **options) -> Callable[[], nn.Module]:
    def build():
        layer = nn.Conv2d(2, 4, kernel, **options)
        size = layer(torch.zeros(1, 2, 3, 3)).numel()
        return Of(
            lambda m, h: m.read(m.a(m.up(h).view(-1, 2, 3, 3)).flatten(1)),
            up=nn.Linear(WIDTH, 18), a=layer, read=nn.Linear(size, WIDTH),
        )  # fmt: skip

    return build


def norm(build: Callable[[], nn.Module], *shape: int) -> Callable[[], nn.Module]:
    def make():
        layer = build()
        with torch.no_grad():
            for v in (*layer.parameters(), *layer.buffers()):
                if v.is_floating_point():
                    v.add_(torch.rand(v.shape))
        return Of(lambda m, h: m.a(h.view(-1, *shape)).flatten(1), a=layer.eval())

    return make


def embedding(**options) -> Callable[[], nn.Module]:
    def looked_up(m, h):
        return h + m.a((3 * h[:, :3]).round().long().clamp(-3, 3) + 3).flatten(1)

    return lambda: Of(looked_up, a=nn.Embedding(7, 2, **options))


def attention() -> nn.Module:
    def attend(m, h):
        tokens = h.view(-1, 3, 2)
        return m.a(tokens, tokens, tokens, need_weights=False)[0].flatten(1)

    return Of(attend, a=nn.MultiheadAttention(2, 2, batch_first=True))


def dot_product() -> nn.Module:
    def attend(m, h):
        q, k, v = m.a(h).view(-1, 1, 3, 6).split(2, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(1)

    return Of(attend, a=nn.Linear(WIDTH, 3 * WIDTH))


def recurrent(kind: type) -> Callable[[], nn.Module]:
    return lambda: Of(lambda m, h: m.a(h.view(-1, 3, 2))[0].flatten(1),
                      a=kind(2, 2, batch_first=True))  # fmt: skip


def cell(kind: type) -> Callable[[], nn.Module]:
    def step(m, h):
        state = m.a(h)
        return state[0] if isinstance(state, tuple) else m.a(h, state)

    return lambda: Of(step, a=kind(WIDTH, WIDTH))


def pruned() -> nn.Module:
    layer = linear()
    prune.random_unstructured(layer, "weight", 0.3)
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(linear())


def scaled() -> nn.Module:
    module = Of(lambda m, h: h * m.scale + m.shift)
    module.scale, module.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(()))
    return module


class Square(nn.Module):
    """A parametrisation."""

    def forward(self, v):
        return v + v.square() / 2


def parametrised() -> nn.Module:
    layer = linear()
    parametrize.register_parametrization(layer, "weight", Square())
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "linear without bias": lambda: linear(False),
    "conv1d": conv1d(),
    "conv1d in groups": conv1d(groups=2, stride=2),
    "conv1d circular": conv1d(padding=1, padding_mode="circular", bias=False),
    "conv2d": conv2d(),
    "conv2d same": conv2d(kernel=(3, 1), padding="same", dilation=(1, 2)),
    "conv2d reflected": conv2d(padding=1, padding_mode="reflect", stride=2),
    "conv2d depthwise": conv2d(groups=2, padding=(1, 0), padding_mode="replicate"),
    "conv transposed": lambda: Of(lambda m, h: m.a(h.view(-1, 2, 3)).flatten(1)[:, :WIDTH],
                                  a=nn.ConvTranspose1d(2, 2, 2)),
    "layer norm": norm(lambda: nn.LayerNorm(WIDTH), WIDTH),
    "layer norm of tokens": norm(lambda: nn.LayerNorm(2), 3, 2),
    "group norm": norm(lambda: nn.GroupNorm(1, 3), 3, 2),
    "batch norm": norm(lambda: nn.BatchNorm1d(WIDTH), WIDTH),
    "batch norm of channels": norm(lambda: nn.BatchNorm1d(3), 3, 2),
    "instance norm": norm(lambda: nn.InstanceNorm1d(2, affine=True), 2, 3),
    "rms norm": norm(lambda: nn.RMSNorm(WIDTH), WIDTH),
    "embedding": embedding(),
    "embedding with padding": embedding(padding_idx=3),
    "embedding bag": lambda: Of(
        lambda m, h: h + m.a((h > 0).long(), None), a=nn.EmbeddingBag(2, WIDTH)
    ),
    "attention": attention,
    "dot product": dot_product,
    "transformer layer": lambda: Of(
        lambda m, h: m.a(h.view(-1, 3, 2)).flatten(1),
        a=nn.TransformerEncoderLayer(2, 1, 4, batch_first=True).eval(),
    ),
    "rnn": recurrent(nn.RNN),
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
    "rnn cell": cell(nn.RNNCell),
    "lstm cell": cell(nn.LSTMCell),
    "gru cell": cell(nn.GRUCell),
    "prelu": lambda: nn.PReLU(),
    "prelu of features": lambda: nn.PReLU(WIDTH),
    "plain parameters": scaled,
    "bilinear": lambda: Of(lambda m, h: m.a(h, h), a=nn.Bilinear(WIDTH, WIDTH, WIDTH)),
    "parametrised": parametrised,
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "old weight norm": old_weight_norm,
    "spectral norm": lambda: parametrizations.spectral_norm(linear()).eval(),
    "old spectral norm": lambda: nn.utils.spectral_norm(linear()).eval(),
    "pruned": pruned,
}  # fmt: skip
ACTIVATIONS = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu in place": lambda h: F.relu_(h.clone()) if h.is_leaf else h.relu_(),
    "softplus": F.softplus,
    "sine": torch.sin,
}


# ---- uses of layers: each from features to such, example by example


def tied(a: Callable) -> nn.Module:
    module = Of(lambda m, h: m.b(torch.tanh(m.a(h))), a=linear(), b=linear())
    module.b.weight = module.a.weight
    return module


def named_twice(a: Callable) -> nn.Module:
    module = Of(lambda m, h: m.again(torch.tanh(m.a(h))), a=a())
    module.again = module.a
    return module


def sorted_inside(m, h):
    order = h[:, 0].argsort()
    return m.a(h[order])[order.argsort()]


def experts(m, h):
    """Top 1 of two."""
    out, chosen = torch.zeros_like(h), h[:, 0] > h[:, 5]
    for side, layer in ((chosen, m.a), (~chosen, m.b)):
        found = layer(h[side]) if bool(side.any()) else h[side]
        out = out.index_put((side.nonzero().flatten(),), found.to(out))
    return out


def two_of_three(m, h):
    """Top 2 of three experts, the tokens of each in one piece."""
    weight, chosen = torch.softmax(h[:, :3], 1).topk(2, 1)
    rows = torch.arange(len(h)).repeat_interleave(2)
    out = torch.zeros_like(h)
    for k, layer in enumerate((m.a, m.b, m.c)):
        at = (chosen.flatten() == k).nonzero().flatten()
        if len(at):
            found = layer(h[rows[at]]) * weight.flatten()[at, None]
            out = out.index_add(0, rows[at], found.to(out))
    return out


def masked(m, h):
    mask = h[:, 2] > 0
    return torch.where(mask[:, None], m.a(h), h)


def distinct(m, h):
    rows, inverse = torch.unique(h.detach(), dim=0, return_inverse=True)
    first = torch.stack([(inverse == k).nonzero()[0, 0] for k in range(len(rows))])
    return m.a(h[first])[inverse]


def reordered_if(m, h):
    """Turned round, for some batches."""
    return m.a(h.flip(0)).flip(0) if bool(h[0, 0] > 0) else m.a(h)


def by_chunks(m, h):
    return torch.cat([m.a(part) for part in h.split(2)])


def last_axis(m, h):
    """Examples on the second axis, as a layer with the sequence first has them."""
    return m.a(h.unsqueeze(1).transpose(0, 1)).squeeze(0)


def autocast(m, h):
    with torch.autocast("cpu", torch.bfloat16):
        return m.a(h).to(h.dtype)


USES: dict[str, Callable[[Callable], nn.Module]] = {
    "once": lambda a: a(),
    "twice": lambda a: Of(lambda m, h: m.a(torch.tanh(m.a(h))), a=a()),
    "residual": lambda a: Of(lambda m, h: h + m.a(h), a=a()),
    "tied": tied,
    "named twice": named_twice,
    "nested": lambda a: nn.Sequential(nn.Sequential(a()), nn.Identity()),
    "module list": lambda a: Of(lambda m, h: m.a[1](torch.tanh(m.a[0](h))),
                                a=nn.ModuleList([a(), linear()])),
    "module dict": lambda a: Of(lambda m, h: m.a["one"](h), a=nn.ModuleDict({"one": a()})),
    "checkpoint": lambda a: Of(lambda m, h: checkpoint(m.a, h, use_reentrant=False), a=a()),
    "checkpoint of two": lambda a: Of(
        lambda m, h: checkpoint(m.a, h, use_reentrant=False),
        a=nn.Sequential(linear(), nn.Tanh(), linear()),
    ),
    "sorted inside": lambda a: Of(sorted_inside, a=a()),
    "experts": lambda a: Of(experts, a=a(), b=linear()),
    "two of three experts": lambda a: Of(two_of_three, a=linear(), b=linear(), c=a()),
    "masked": lambda a: Of(masked, a=a()),
    "distinct rows": lambda a: Of(distinct, a=a()),
    "reordered for some batches": lambda a: Of(reordered_if, a=a()),
    "chunks": lambda a: Of(by_chunks, a=a()),
    "examples last": lambda a: Of(last_axis, a=linear()),
    "turned round": lambda a: Of(lambda m, h: m.a(h.flip(0)).flip(0), a=a()),
    "keyword": lambda a: Of(lambda m, h: m.a(input=h), a=linear()),
    "functional": lambda a: Of(lambda m, h: F.linear(h, m.a.weight) + m.a(h), a=linear()),
    "halves": lambda a: Of(lambda m, h: m.a(torch.cat([h, -h])).view(2, len(h), -1).sum(0), a=a()),
    "branch of one": lambda a: Of(
        lambda m, h: torch.stack([m.a(v[None])[0] if v.sum() > 0 else v for v in h]), a=a()
    ),
}  # fmt: skip
BRANCHING = ("masked", "branch of one")  # on the sign of a number


# ---- faults: what couples examples, and what draws random numbers


def paired(m, h):
    other = h.clone()
    other[1::2] = h[1::2] + h[: len(h) // 2 * 2 : 2]
    return other


def capacity(m, h):
    """An expert that takes three examples, and drops the others."""
    keep = (h[:, 0] > 0).cumsum(0) <= 3
    return torch.where(keep[:, None], 2 * h, h)


def gradient_alone(m, h):
    """Coupled in its gradient, not in its value."""
    return h + (h.mean(0) - h.mean(0).detach())


def own_noise(m, h):
    generator = m.__dict__.setdefault("chance", torch.Generator())
    return h * (1 + torch.rand(len(h), 1, generator=generator).to(h))


COUPLINGS: dict[str, Callable] = {
    "cumulative sum": lambda m, h: h.cumsum(0),
    "minus the first": lambda m, h: h - h[:1],
    "minus the mean": lambda m, h: h - h.mean(0),
    "from three on": lambda m, h: h - (len(h) > 2) * h.mean(0),
    "from six on": lambda m, h: h - (len(h) > 5) * h.mean(0),
    "branch on all": lambda m, h: h if h.sum() > 0 else 2 * h,
    "sorted": lambda m, h: h.sort(0).values,
    "largest": lambda m, h: h / h.detach().abs().amax(),
    "softmax": lambda m, h: h.softmax(0) * len(h),
    "rolled": lambda m, h: h + h.roll(1, 0),
    "batch norm": lambda m, h: F.batch_norm(h, None, None, training=True) if len(h) > 1 else h,
    "pairs": paired,
    "capacity": capacity,
    "gradient alone": gradient_alone,
    "number of examples": lambda m, h: h * len(h),
    "batch position": lambda m, h: h + torch.arange(len(h)).to(h)[:, None],
    "the middle one": lambda m, h: torch.cat([h[: len(h) // 2], 2 * h[len(h) // 2 :]]),
    "quantile": lambda m, h: h.clamp(max=h.detach().mean() + h.detach().std()) if len(h) > 1 else h,
    "attention over examples": lambda m, h: F.scaled_dot_product_attention(h, h, h),
}
CHANCE: dict[str, Callable] = {
    "dropout": lambda m, h: F.dropout(h, 0.2, m.training),
    "stochastic depth": lambda m, h: h * (torch.rand(len(h), 1) > 0.2).to(h),
    "rrelu": lambda m, h: F.rrelu(h, training=True),
    "noise": lambda m, h: h + 0.1 * torch.randn_like(h),
    "noise of numpy": lambda m, h: h * (1 + 0.1 * np.random.rand()),
    "noise of Python": lambda m, h: h * (1 + 0.1 * random.random()),
    "own generator": own_noise,
    "noise from four on": lambda m, h: h * (1 + 0.1 * torch.rand(())) if len(h) > 3 else h,
}  # fmt: skip
MODES: dict[str, Callable[[], nn.Module]] = {
    "nn.Dropout": lambda: nn.Dropout(0.3),
    "nn.BatchNorm1d": lambda: nn.BatchNorm1d(WIDTH),
    "nn.InstanceNorm1d": lambda: Of(lambda m, h: m.a(h.view(-1, 2, 3)).flatten(1),
                                    a=nn.InstanceNorm1d(2, track_running_stats=True)),
    "nn.RReLU": lambda: nn.RReLU(),
    "spectral norm": lambda: parametrizations.spectral_norm(linear()),
}  # fmt: skip


# ---- changes between two calls


def first_linear(module: nn.Module) -> nn.Linear | None:
    plain = (m for m in module.modules() if type(m) is nn.Linear and not m._forward_pre_hooks)
    return next((m for m in plain if m.weight is not None and len(m._parameters) == 2), None)


def on_linear(change: Callable[[nn.Linear], object]) -> Callable[[nn.Module], object]:
    return lambda module: (layer := first_linear(module)) is not None and change(layer)


def without_statistics(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean = layer.running_var = None


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "pruned": on_linear(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "parametrised": on_linear(
        lambda layer: parametrize.register_parametrization(layer, "weight", Square())
    ),
    "hook": on_linear(lambda layer: layer.register_forward_hook(lambda m, a, z: 2 * z)),
    "input hook": on_linear(
        lambda layer: layer.register_forward_pre_hook(lambda m, a: (a[0].tanh(),))
    ),
    "head": lambda module: setattr(
        module, "head", nn.Linear(WIDTH, math.prod(module.c)).to(next(module.parameters()))
    ),
    "activation": lambda module: setattr(module, "activation", torch.sigmoid),
    "train": lambda module: module.train(),
    "eval": lambda module: module.eval(),
    "coupled": on_linear(lambda layer: layer.register_forward_hook(lambda m, a, z: z.cumsum(0))),
    "turned": on_linear(lambda layer: layer.register_forward_hook(lambda m, a, z: z.flip(0))),
    "statistics": without_statistics,
    "frozen": on_linear(lambda layer: setattr(layer, "bias", None)),
    "other weights": lambda module: [p.data.mul_(1.5) for p in module.parameters()],
}  # fmt: skip
BRIEF = ("ntk full of two", "ntk in parts", "vjp")
SHAKEN, ROUNDED = 5, 10  # times that the oracle is rounded, and what its errors are multiplied by
FAULTY = ("train", "coupled", "turned", "statistics")  # changes after which it may be refused


class Net(nn.Module):
    """Blocks between a linear layer and a read-out, with an activation after each."""

    def __init__(self, draw: "Drawn", blocks: list[nn.Module], activation: Callable, c: tuple):
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, WIDTH), nn.ModuleList(blocks)
        self.head, self.activation = nn.Linear(WIDTH, math.prod(c)), activation
        self.given, self.c, self.types = draw.given, c, draw.types

    def forward(self, x):
        if self.given == "dict":
            x = torch.cat([x["a"], x["b"][0]], 1)
        elif self.given == "tuple":
            x = torch.cat(x, 1)
        _, outer = self.types
        h = self.stem(x)
        for block in self.blocks:
            h = self.activation(block(h))
        return self.head(h).view(-1, *self.c).to(outer) if self.c else self.head(h)[:, 0].to(outer)


@dataclass
class Drawn:
    """What a seed says: `build` gives the module, alike each time."""

    seed: int
    words: list[str] = field(default_factory=list)
    single: bool = True  # whether it is a map of single examples
    chance: bool = False
    change: str = ""
    given: str = "tensor"
    types: tuple = (torch.float64, torch.float64)
    unit: float = 1e-8  # error allowed, of the largest entry

    def __post_init__(self):
        self.pick = random.Random(self.seed)
        pick = self.pick.choice
        kinds = ["float64"] * 6 + ["float32"] * 2 + ["bfloat16 body", "float64 output", "autocast"]
        kind = pick(kinds)
        self.types, self.unit = {
            "float64": ((torch.float64, torch.float64), 1e-8),
            "float32": ((torch.float32, torch.float32), 2e-3),
            "bfloat16 body": ((torch.bfloat16, torch.float32), 0.3),
            "float64 output": ((torch.float32, torch.float64), 2e-3),
            "autocast": ((torch.float32, torch.float32), 0.3),
        }[kind]
        coarse = torch.bfloat16 if kind == "autocast" else self.types[0]
        self.half = torch.finfo(coarse).eps ** 0.5  # of the digits
        self.kind, self.given = kind, pick(["tensor"] * 4 + ["dict", "tuple"])
        self.c = pick([(1,), (2,), (3,), (), (2, 2)])
        self.activation = pick([*ACTIVATIONS] if kind == "float64" else ["tanh", "gelu"])
        smooth = kind in ("float64", "float32", "float64 output")
        uses = [k for k in USES if smooth or "expert" not in k]
        rough = "embedding", "tokens", "transformer", "group norm", "bilinear", "spectral"
        layers = [k for k in LAYERS if smooth or not any(word in k for word in rough)]
        self.blocks = [(pick(layers), pick(["once", *uses])) for _ in range(pick([1, 1, 2]))]
        self.fault, p = None, self.pick.random()
        if p < 0.25 and smooth:
            self.fault = pick(["coupling", "chance", "mode"])
            self.fault = self.fault, pick([*{"coupling": COUPLINGS, "chance": CHANCE,
                                             "mode": MODES}[self.fault]])  # fmt: skip
            self.single, self.chance = False, self.fault[0] == "chance"
        elif p < 0.5 and smooth:
            self.change = pick([*CHANGES])
        self.n, self.place = (self.pick.randint(1, 9), self.pick.randint(1, 9)), pick([0, 1])
        self.branches = not smooth and any(use in BRANCHING for _, use in self.blocks)
        if self.fault and "from four on" in self.fault[1]:
            self.n = 4 + self.n[0] % 6, 4 + self.n[1] % 6
        self.words = [kind, self.given, self.activation, *map(" ".join, self.blocks),
                      *(self.fault or ()), self.change, f"n {self.n}", f"c {self.c}"]  # fmt: skip

    def build(self) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            blocks = [USES[use](LAYERS[layer]) for layer, use in self.blocks]
            if self.fault:
                kind, name = self.fault
                table = {"coupling": COUPLINGS, "chance": CHANCE}
                block = MODES[name]() if kind == "mode" else Of(table[kind][name])
                blocks.insert(self.place, block)
            module = Net(self, blocks, ACTIVATIONS[self.activation], self.c)
            if self.kind == "autocast":
                plain = module.forward

                def forward(x):
                    with torch.autocast("cpu", torch.bfloat16):
                        return plain(x)

                module.forward = forward
        return module.to(self.types[0])

    def x(self, n: int, seed: int, dtype: torch.dtype | None = None):
        g = torch.Generator().manual_seed(1000 * self.seed + seed)
        x = torch.randn(n, 4, generator=g, dtype=torch.float64).to(self.types[0])
        x = x.to(dtype or self.types[0])
        if self.given == "dict":
            return {"a": x[:, :1], "b": [x[:, 1:]]}
        return (x[:, :2], x[:, 2:]) if self.given == "tuple" else x


def at(x, i):
    """Some examples of inputs of any kind."""
    if isinstance(x, Tensor):
        return x[i]
    if isinstance(x, dict):
        return {k: at(v, i) for k, v in x.items()}
    return type(x)(at(v, i) for v in x)


class Oracle:
    """The outputs (n, c) and the Jacobian (n, c, p) of a module of its own, example by example, in
    double precision; or in its own types, at weights off by roundings, which `rounded` seeds."""

    def __init__(self, draw: Drawn, module: nn.Module, rounded: int = 0):
        self.draw, self.module, self.rounded = draw, module, rounded
        if draw.activation == "relu in place":
            self.module.activation = torch.relu
        if not rounded:
            self.module.double().types = torch.float64, torch.float64
        if not rounded and draw.kind == "autocast":
            del self.module.forward

    def rows(self, params: dict, n: int, seed: int, chance: int = 0):
        """NaN where there is no such thing: no number is right then."""
        numpy, python = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng([]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(chance)
                np.random.seed(chance)
                random.seed(chance)
                return self._rows(params, n, seed)
        except Exception:
            f = torch.full((n, math.prod(self.draw.c)), torch.nan)
            return f, torch.full((*f.shape, sum(p.numel() for p in params.values())), torch.nan)
        finally:
            np.random.set_state(numpy)
            random.setstate(python)

    def _rows(self, params: dict, n: int, seed: int):
        own = dict(self.module.named_parameters())
        off = 2 * self.draw.half**2 if self.rounded else 0.0
        noise = torch.Generator().manual_seed(self.rounded)
        with torch.no_grad():
            for name, v in params.items():
                own[name].copy_(v * (1 + off * torch.randn(v.shape, generator=noise).double()))
        x = self.draw.x(n, seed, None if self.rounded else torch.float64)
        leaves = [own[name] for name in params]
        values, rows = [], []
        for i in range(n):
            f = self.module(at(x, slice(i, i + 1))).reshape(-1)
            values.append(f.detach().double())
            for k in f:
                g = torch.autograd.grad(k, leaves, retain_graph=True, allow_unused=True)
                rows.append(torch.cat([
                    (torch.zeros_like(p) if v is None else v.to_dense()).flatten().double()
                    for v, p in zip(g, leaves, strict=True)
                ]))  # fmt: skip
        f = torch.stack(values)
        return f, torch.stack(rows).view(*f.shape, -1)


def state(module: nn.Module) -> dict:
    """All of a module that a call may not change."""
    found = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        found[name, "mode"] = layer.training
        hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
        found[name, "hooks"] = [*map(len, hooks)]
        for k, p in layer._parameters.items():
            value = p is not None and (p.detach().clone(), p.grad, p.requires_grad)
            found[name, k] = id(p), value
        for k, v in layer._buffers.items():
            found[name, k] = (id(v), v is not None and v.clone())
        for k, v in vars(layer).items():
            if isinstance(v, Tensor):
                found[name, k, "plain"] = id(v)
    return found


def same(a, b) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def chance() -> tuple:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state(), kind, keys.tobytes(), *rest, random.getstate()


def check(seed: int, brief: bool = False) -> tuple[list[str], str]:
    """What is wrong with what the engine says of a module, and "right" or "refused". `brief`: by
    three calls, not by all."""
    draw = Drawn(seed)
    module, truth = draw.build(), Oracle(draw, draw.build())
    verdicts, faults = [], []

    def changed(one: nn.Module) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            CHANGES[draw.change](one)
        return one

    def oracles(after: bool) -> list[Oracle]:
        """In the module's own types, at weights off by roundings."""
        build = (lambda: changed(draw.build())) if after else draw.build
        return [Oracle(draw, build(), seed) for seed in range(1, 1 + SHAKEN)]

    def rounding(what: str, params: dict, want: Tensor, after: bool) -> Tensor:
        """The largest error of the oracle, with a margin."""
        every = (kernels(draw, module, oracle, params) for oracle in oracles(after))
        return ROUNDED * max((right - want).abs().max()
                             for calls in every for name, _, right in calls if name == what)

    def blurred(params: dict, after: bool) -> bool:
        """Whether the oracle's Jacobian loses half the digits."""
        for n, seed in zip(draw.n, (1, 2), strict=True):
            _, J = truth.rows(params, n, seed)
            again = (oracle.rows(params, n, seed)[1] for oracle in oracles(after))
            errors = ((rows - J).abs().max() for rows in again)
            if ROUNDED * max(errors) > draw.half * J.abs().max():
                return True
        return False

    def judge(single: bool, after: bool = False) -> None:
        params = {k: p.detach() for k, p in module.named_parameters()}
        before, drawn = state(module), chance()
        for what, say, want in kernels(draw, module, truth, params):
            if brief and what not in BRIEF:
                continue
            largest = want.abs().max()
            try:
                got = say()
            except ValueError as error:
                verdicts.append(f"refused: {error}")
                torch_itself = draw.activation == "relu in place" and "inplace" in str(error)
                allowed = not single or torch_itself or draw.branches or blurred(params, after)
                if not allowed:
                    faults.append(f"{what} refused falsely: {error}")
                elif "\n" in str(error) or len(str(error)) > 300:
                    faults.append(f"{what} refused in several lines: {error}")
                break
            except Exception as error:  # whatever it is, it is a fault
                faults.append(f"{what} raises {type(error).__name__}: {str(error)[:300]}")
                break
            verdicts.append("right")
            if got.shape != want.shape:
                faults.append(f"{what} has shape {tuple(got.shape)}, not {tuple(want.shape)}")
                break
            error = (got.double() - want).abs().max()
            if not (error <= draw.unit * largest or error <= rounding(what, params, want, after)):
                share = (error / largest).item()
                faults.append(f"{what} is wrong by {share:.2g} of its largest entry")
        now = state(module)
        kept = {k for k in before if k in now and same(before[k], now[k])}
        faults.extend(f"changed {k}" for k in before.keys() - kept)
        if not same(drawn, chance()):
            faults.append("random state changed")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        judge(draw.single)
        if draw.change:
            changed(module)
            changed(truth.module).double()
            judge(draw.change not in FAULTY, after=True)
    own = ("Mismatch dtype",)  # of torch's layers themselves
    said = (str(w.message) for w in seen)
    faults += sorted({f"warns: {v}"[:200] for v in said if not v.startswith(own)})
    verdict = verdicts[-1] if verdicts else ""
    return [f"{seed} ({', '.join(draw.words)}): {fault}" for fault in faults], verdict


def kernels(draw: Drawn, module: nn.Module, truth: Oracle, params: dict):
    """Names, functions that give what is said, and what is right."""
    n, m = draw.n
    x1, x2 = draw.x(n, 1), draw.x(m, 2)
    turned = torch.randperm(n, generator=torch.Generator().manual_seed(draw.seed))
    (f1, J1), (_, J2) = truth.rows(params, n, 1), truth.rows(params, m, 2)
    if draw.chance:  # no number is right, unless this one shows nothing of it, as a norm may
        again = (*truth.rows(params, n, 1, 1), truth.rows(params, m, 2, 1)[1])
        pairs = zip((f1, J1, J2), again, strict=True)
        near = (((v - w).abs() < draw.unit * v.abs().max(), v) for v, w in pairs)
        f1, J1, J2 = (v.where(rows, torch.nan) for rows, v in near)
    alone, full = (torch.einsum("icp,jdp->ijcd", J1, J) for J in (J1, J2))

    def part(kernel, outputs):
        if outputs == "full":
            return kernel
        diagonal = kernel.diagonal(dim1=-2, dim2=-1)
        return diagonal if outputs == "diagonal" else diagonal.sum(-1)

    for outputs in OUTPUTS:
        for name, x, want in (("", None, alone), (" of two", x2, full)):
            yield (f"ntk {outputs}{name}", lambda o=outputs, x=x: ntk(module, params, x1, x, o),
                   part(want, outputs))  # fmt: skip
    yield "ntk shuffled", lambda: ntk(module, params, at(x1, turned), x2), full[turned]
    yield ("ntk in parts", lambda: ntk(module, params, x1, x2, "trace", budget=3e4),
           part(full, "trace"))  # fmt: skip
    options = dict(generator=torch.Generator().manual_seed(draw.seed), dtype=torch.float64)
    v = {k: torch.randn(p.shape, **options).to(p.dtype) for k, p in params.items()}
    u = torch.randn(f1.shape, **options).to(draw.types[1])

    def jvp():
        J = jacobian(module, params, x1)
        return J.jvp({k: t.to(J.value) for k, t in v.items()})

    def vjp():
        J = jacobian(module, params, x1)
        found = J.vjp(u.to(J.value))
        return torch.cat([found[k].flatten() for k in params])

    yield "value", lambda: jacobian(module, params, x1).value, f1
    yield "jvp", jvp, J1 @ torch.cat([t.double().flatten() for t in v.values()])
    yield "vjp", vjp, torch.einsum("icp,ic->p", J1, u.double())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1000), metavar=("FIRST", "END"))
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    args = parser.parse_args()
    first, end = args.seeds
    found = []
    for seed in tqdm(range(first, end), unit="module", disable=None):
        faults, verdict = check(seed)
        for fault in faults:
            tqdm.write(fault)
        found.append((Drawn(seed).kind, "wrong" if faults else verdict.partition(":")[0]))
    table = pd.DataFrame(found, columns=["numbers", "outcome"])
    outcomes = ["right", "refused", "wrong"]
    counts = pd.crosstab(table.numbers, table.outcome).reindex(columns=outcomes, fill_value=0)
    counts.loc["all"] = counts.sum()
    counts.insert(0, "modules", counts.sum(axis=1))
    counts["first seed"], counts["last"] = first, end - 1
    print(counts.to_string())
    if args.record:
        counts.to_csv(RECORD)
        seal(RECORD)
    return int(counts.loc["all", "wrong"] > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
