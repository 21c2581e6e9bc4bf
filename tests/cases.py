"""One table of networks and inputs for the tests of the physics, and one policy of tolerance.

All is float64. `close` compares norm-wise, in units of the largest entry expected.
"""

from dataclasses import dataclass
from math import prod

import torch
from scipy.integrate import solve_ivp
from torch import Generator, Tensor, nn
from torch.func import functional_call, hessian

from tangents import models
from tangents.functional import Params, stack
from tangents.problem import Point, Problem

EPS = torch.finfo(torch.float64).eps


def close(got: Tensor, want: Tensor, times: float = 1e3, order: float = 1.0) -> None:
    """|got - want| <= times * eps^order * max|want|: order 1 for rounding, 1/2 for iterations."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, not {tuple(want.shape)}"
    unit = torch.finfo(got.dtype).eps ** order * max(want.abs().max().item(), 1e-300)
    error = (got - want).abs().max().item()
    assert error <= times * unit, f"error {error / unit:.3g} units, {times:g} are allowed"


def all_close(got: Params, want: Params, times: float = 1e3, order: float = 1.0) -> None:
    assert got.keys() == want.keys()
    for name in want:
        close(got[name], want[name], times, order)


def points_close(got: Point, want: Point) -> None:
    """But for their parameters and Jacobians."""
    for name in ("output", "loss", "stiffness"):
        close(getattr(got, name), getattr(want, name))
    all_close(got.gradient, want.gradient)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def like(params: Params, seed: int = 0) -> Params:
    """A normal direction in the space of the parameters."""
    return {k: normal(*v.shape, seed=seed + 7 * i) for i, (k, v) in enumerate(params.items())}


def flat(params: Params, start: int = 0) -> Tensor:
    """All parameters in one last axis; the first `start` axes stay."""
    return torch.cat([v.reshape(*v.shape[:start], -1) for v in params.values()], -1)


def unflat(w: Tensor, params: Params) -> Params:
    """The inverse of `flat` for one network, with the shapes of `params`."""
    parts = w.split([v.numel() for v in params.values()])
    return {k: p.view_as(v) for (k, v), p in zip(params.items(), parts, strict=True)}


def dense_hessian(module, params: Params, x: Tensor, k: int = 0) -> Tensor:
    """The Hessian (p, p) of output k at one input x, by automatic differentiation."""

    def f(w):
        return functional_call(module, unflat(w, params), (x[None],))[0, k]

    return hessian(f)(flat(params))


def exact_flow(problem: Problem, params: Params, t: float) -> Tensor:
    """Output (n,) of one network after time t of gradient flow, by a Runge-Kutta of order 8."""

    def unflatten(w):
        return unflat(torch.from_numpy(w), params)

    def slope(_, w):
        return -flat(problem.at(unflatten(w), False).gradient).numpy()

    end = solve_ivp(slope, (0, t), flat(params).numpy(), "DOP853", rtol=1e-9, atol=1e-12)
    return problem.at(unflatten(end.y[:, -1]), False).output[0]


@dataclass(frozen=True)
class Case:
    name: str
    module: nn.Module
    shape: tuple[int, ...]  # of one input
    stacks: bool = True  # takes a stack of networks
    structured: tuple[str, ...] = ()  # names of the layers with a structured tangent
    vocabulary: int = 0  # inputs are integers below it

    def params(self, seed: int = 0) -> Params:
        """Random parameters, biases too, of variance one over the fan-in where unscaled."""
        scaled = any(hasattr(layer, "scale") for layer in self.module.modules())
        return {
            name: normal(*p.shape, seed=100 * seed + i) / prod(() if scaled else p.shape[1:]) ** 0.5
            for i, (name, p) in enumerate(self.module.named_parameters())
        }

    def stack(self, *seeds: int) -> Params:
        return stack([self.params(seed) for seed in seeds])

    def x(self, n: int, seed: int = 0) -> Tensor:
        if self.vocabulary:
            generator = Generator().manual_seed(seed)
            return torch.randint(self.vocabulary, (n, *self.shape), generator=generator)
        return normal(n, *self.shape, seed=1000 + seed)


CASES = (
    Case("mlp, depth 1", models.MLP(4, 7, 1), (4,)),
    Case("mlp, depth 3, relu, no bias", models.MLP(3, 5, 3, activation="relu", bias=False), (3,)),
    Case("mlp, depth 2, tanh, 3 outputs", models.MLP(3, 6, 2, c=3, activation="tanh"), (3,)),
    Case("convnet", models.ConvNet(1, 3), (1, 19, 19)),
    Case(
        "convnet, softplus, no bias, 2 channels, 2 outputs",
        models.ConvNet(2, 2, c=2, activation="softplus", bias=False),
        (2, 20, 19),
    ),
    Case("residual network, depth 3, 2 outputs", models.ResNet(3, 4, 3, c=2), (3,)),
    Case(
        "bottleneck, tanh head",
        models.Headed(models.MLP(3, 5, 3, activation="tanh", bias=False, bottleneck=2), "tanh"),
        (3,),
    ),
    Case("softmax head", models.Headed(models.MLP(3, 4, 1, c=2), "softmax"), (3,)),
    Case("one linear layer", models.Linear(3, 2), (3,)),
    Case(
        "strided and dilated convolution",
        nn.Sequential(
            models.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2),
            nn.Tanh(),
            nn.Flatten(-3),
            models.Linear(36, 1),
        ),
        (2, 7, 6),
    ),
    Case(
        "layers of torch",
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 2)),
        (1, 5, 5),
        stacks=False,
    ),
)


class Applied(nn.Module):
    """A module of some layers and a function of (module, x)."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


class Louder(nn.Linear):
    """Scales its output and does not say so."""

    def forward(self, x):
        return 2 * super().forward(x)


def recurrent(net: Applied, x: Tensor) -> Tensor:
    state = torch.zeros_like(net.enter(x[:, 0]))
    for t in range(x.shape[1]):
        state = torch.tanh(net.enter(x[:, t]) + net.step(state))
    return net.leave(state)


def time_first(net: Applied, x: Tensor) -> Tensor:
    return net.leave(torch.tanh(net.enter(x.transpose(0, 1))).sum(0))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    net[2].weight = net[0].weight
    return net


def direct(net: Applied, x: Tensor) -> Tensor:
    return net.leave(net.enter(x)) + x @ net.enter.weight.mT @ net.leave.weight.mT


class Tempered(nn.Module):
    """Divides what a layer gives by a parameter that is a single number."""

    def __init__(self):
        super().__init__()
        self.layer, self.temperature = nn.Linear(3, 2), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.tanh(self.layer(x)) / self.temperature


class Rescaled(nn.Module):
    """Multiplies each unit by a parameter that has the name of the scale which layers state."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(1, 2, width))

    def forward(self, x):
        return x / x.square().mean(-1, keepdim=True).sqrt() * self.scale


def attention(net: Applied, x: Tensor) -> Tensor:
    return net.leave(net.mix(x, x, x)[0].mean(1))


L, S, T = nn.Linear, nn.Sequential, nn.Tanh
MODULES = tuple(
    Case(name, module.double().eval(), shape, False, structured, vocabulary)
    for name, module, shape, structured, vocabulary in (
        ("wide image", S(nn.Conv2d(2, 9, 2), T(), nn.Flatten(), L(9, 2)), (2, 2, 2), ("0", "3"), 0),
        (
            "few positions",
            S(nn.Conv1d(9, 9, 3), T(), nn.Flatten(), L(18, 2)),
            (9, 4),
            ("0", "3"),
            0,
        ),
        (
            "groups, same padding, circular",
            S(
                nn.Conv2d(2, 4, 3, groups=2, padding="same", padding_mode="circular"),
                T(),
                nn.Conv2d(4, 2, 2, stride=2, dilation=2, bias=False),
                nn.Flatten(),
                L(8, 1),
            ),
            (2, 5, 5),
            ("0", "2", "4"),
            0,
        ),
        (
            "normalisation",
            S(
                L(3, 4),
                nn.BatchNorm1d(4),
                T(),
                nn.LayerNorm(4),
                L(4, 6),
                nn.Unflatten(1, (2, 3)),
                nn.GroupNorm(1, 2),
                nn.LayerNorm((2, 3), bias=False),
                nn.LayerNorm((2, 3)),
                nn.Flatten(),
                L(6, 2),
            ),
            (3,),
            ("0", "1", "3", "4", "6", "7", "8", "10"),
            0,
        ),
        (
            "embedding",
            Applied(
                lambda m, x: m.leave(torch.tanh(m.mix(m.table(x))).sum(1)),
                table=nn.Embedding(5, 3),
                mix=L(3, 4),
                leave=L(4, 2),
            ),
            (3,),
            ("table", "mix", "leave"),
            5,
        ),
        (
            "recurrent cell",
            Applied(recurrent, enter=L(2, 9), step=L(9, 9), leave=L(9, 2)),
            (3, 2),
            ("enter", "step", "leave"),
            0,
        ),
        ("time first", Applied(time_first, enter=L(2, 3), leave=L(3, 1)), (4, 2), ("leave",), 0),
        (
            "residual",
            Applied(lambda m, x: m.b(x + torch.tanh(m.a(x))), a=L(3, 3), b=L(3, 2)),
            (3,),
            ("a", "b"),
            0,
        ),
        ("tied weights", tied(), (3,), ("4",), 0),
        ("weights used directly", Applied(direct, enter=L(3, 2), leave=L(2, 2)), (3,), (), 0),
        (
            "idle layer",
            Applied(lambda m, x: m.used(x), used=L(3, 1), idle=L(3, 1)),
            (3,),
            ("used",),
            0,
        ),
        ("a single number", Tempered(), (3,), ("layer",), 0),
        ("rescaled", S(models.Linear(3, 3), Rescaled(3), models.Linear(3, 1)), (3,), ("0", "2"), 0),
        ("hidden scale", S(Louder(3, 3), T(), L(3, 1)), (3,), ("2",), 0),
        (
            "images changed in place",
            S(
                nn.Conv2d(1, 2, 3),
                nn.ReLU(inplace=True),
                nn.Conv2d(2, 2, 3),
                T(),
                nn.Flatten(),
                L(8, 2),
            ),
            (1, 6, 6),
            ("2", "5"),
            0,
        ),
        ("changed in place", S(L(3, 5), nn.ReLU(inplace=True), L(5, 2)), (3,), ("2",), 0),
        (
            "attention",
            Applied(attention, mix=nn.MultiheadAttention(4, 2, batch_first=True), leave=L(4, 2)),
            (3, 4),
            ("leave",),
            0,
        ),
        (
            "bare parameters",
            S(
                L(3, 4),
                nn.PReLU(),
                nn.Unflatten(1, (2, 2)),
                nn.ConvTranspose1d(2, 1, 1),
                nn.Flatten(),
            ),
            (3,),
            ("0",),
            0,
        ),
    )
)
STACKS = tuple(case for case in CASES if case.stacks)


def name(case: Case) -> str:
    """The id of a parametrised test."""
    return case.name
