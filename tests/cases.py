"""One table of networks and inputs for the tests of the physics, and one policy of tolerance.

All is float64. `close` compares norm-wise, in units of the largest entry expected.
"""

from dataclasses import dataclass
from math import prod

import torch
from scipy.integrate import solve_ivp
from torch import Generator, Tensor, nn

from tangents import models
from tangents.functional import Params, stack
from tangents.train import Problem

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


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def like(params: Params, seed: int = 0) -> Params:
    """A normal direction in the space of the parameters."""
    return {k: normal(*v.shape, seed=seed + 7 * i) for i, (k, v) in enumerate(params.items())}


def flat(params: Params, start: int = 0) -> Tensor:
    """All parameters in one last axis; the first `start` axes stay."""
    return torch.cat([v.flatten(start) for v in params.values()], -1)


def exact_flow(problem: Problem, params: Params, t: float) -> Tensor:
    """Output (n,) of one network after time t of gradient flow, by a Runge-Kutta of order 8."""

    def unflatten(w):
        parts = torch.from_numpy(w).split([v.numel() for v in params.values()])
        return {k: p.view_as(v) for (k, v), p in zip(params.items(), parts, strict=True)}

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
STACKS = tuple(case for case in CASES if case.stacks)


def name(case: Case) -> str:
    """The id of a parametrised test."""
    return case.name
