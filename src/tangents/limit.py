"""The limit of infinite output scale: a network that is its tangent and learns with one kernel.

As alpha grows F = alpha (f - f0) follows dF/dt = -Theta l'(y F) y / n, Theta the kernel at the
start, in which alpha does not occur. Then F = Theta beta, and alpha (w - w0) tends to J^T beta: how
far weights and kernel move is known for every large alpha from one flow in n numbers.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangents import checks, kernels, models
from tangents.empirical import ntk
from tangents.flow import GradientFlow, flow
from tangents.functional import Params, norm, require, together


class Learnt(NamedTuple):
    """What a kernel learnt by gradient flow from an output of zero."""

    output: Float[Tensor, " n"]  # F at the training examples
    beta: Float[Tensor, " n"]  # F(x) = sum_i Theta(x, x_i) beta_i
    t1: float  # first time at which the mean loss is below 1/2; nan: never
    t: float  # time at the end
    steps: int
    converged: bool  # every training point has margin >= 1


def learn(
    k: Float[Tensor, "n n"],
    y: Float[Tensor, " n"],
    loss: str = "soft_hinge",
    rule: GradientFlow | None = None,
    max_steps: int = 100_000,
) -> Learnt:
    """The flow dF/dt = -K l'(y F) y / n from F = 0, until each of the labels y has margin >= 1.

    By `flow` on features whose Gram matrix is K, with 1e-10 of its mean diagonal added. Raises
    ValueError for a K that is not positive definite then.
    """
    checks.tensors(k=k, y=y)
    require(k.dim() == 2, f"k must be (n, n), got {tuple(k.shape)}")
    checks.shaped("y", y, len(k))
    root, _ = kernels.features(k, k[:1])
    n, one, t1 = len(y), k.new_ones(1), math.nan
    machine = models.Linear(n, 1, bias=False).to(k)  # divides by sqrt(n)
    start = {"weight": k.new_zeros(1, 1, n)}
    rule = rule or GradientFlow(implicit=True)
    for state in flow(machine, start, root * math.sqrt(n), y, one, 1e-4 * one, loss, rule,
                      max_steps):  # fmt: skip
        if math.isnan(t1) and state.loss[0] < 0.5:
            t1 = state.t[0].item()
    weight = state.params["weight"][0].mT
    beta = torch.linalg.solve_triangular(root.mT, weight, upper=True)[:, 0]
    ended = state.t[0].item(), state.step[0].item(), bool(state.converged[0])
    return Learnt(state.output[0], beta, t1, *ended)


def moved_kernel(
    module: nn.Module, params: Params, direction: Params, x: Tensor, step: float
) -> Float[Tensor, "m m"]:
    """The kernel, traced over outputs, of one network that has moved by `step` * `direction`."""
    b = together(module, params=params, direction=direction)
    require(b == 0, f"params must be of one network, got a stack of {b}")
    checks.number("step", step, -math.inf)
    moved = {name: v + step * direction[name] for name, v in params.items()}
    return ntk(module, moved, x, outputs="trace")


def kernel_derivative(
    module: nn.Module, params: Params, direction: Params, x: Tensor, length: float = 1e-3
) -> Float[Tensor, "m m"]:
    """d Theta(w + s v) / ds at s = 0, by a central difference between weights `length` apart from w
    on either side: in double precision right to about 1e-6 for smooth networks."""
    together(module, params=params, direction=direction)
    checks.number("length", length, above=True)
    size = norm({name: v[None] for name, v in direction.items()}).item()
    checks.number("the length of direction", size, above=True)
    step = length / size
    ahead, behind = (moved_kernel(module, params, direction, x, s) for s in (step, -step))
    return (ahead - behind) / (2 * step)
