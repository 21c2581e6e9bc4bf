"""Training in rounds: the tangent model at an anchor is trained for a while, its end is the next
anchor (Goldwaser & Ge 2023, iterative linearisation).

All takes stacks of b networks. What is trained is F = alpha (f - f0) with a loss l(F, y) / alpha^2,
summed over examples, so that dF/dt = -Theta l'(F, y) at every alpha, -Theta (F - y) for the squared
loss, with Theta = J J^T the kernel of f. Time is that of this flow; of a mean over n examples it is
n times as long.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp

from tangents import checks
from tangents.empirical import jacobian
from tangents.factored import Jacobian
from tangents.functional import Params, outputs, require, stacks, together
from tangents.inputs import taken
from tangents.linearised import (
    Gain,
    Spectrum,
    descend_outputs,
    descent,
    respond,
    spectrum,
    stable_rate,
)
from tangents.losses import SQUARED, OutputLoss, require_targets

Durations = Iterable[Float[Tensor, " b"]]


@dataclass(frozen=True)
class TangentModel:
    """b networks linearised at an anchor, with what training them takes."""

    anchor: Params  # (b, ...)
    alpha: Float[Tensor, " b"]
    output: Float[Tensor, "b n c"]  # F at the anchor, on the training inputs
    jacobian: Jacobian  # of f there
    spectrum: Spectrum  # of Theta, in double precision

    @classmethod
    def at(
        cls, module: nn.Module, params0: Params, x: Tensor, alpha: Tensor, anchor: Params
    ) -> "TangentModel":
        """The model at an anchor. A network that is not finite there has the spectrum of zeros."""
        stacks(module, params0=params0, anchor=anchor)
        checks.examples(x=x)
        J, output = jacobian(module, anchor, x), predictor(module, params0, alpha)(anchor, x)
        kernel = J.gram().double()
        kernel[~kernel.flatten(1).isfinite().all(-1)] = 0
        return cls(anchor, alpha, output, J, spectrum(kernel))

    @property
    def largest(self) -> Float[Tensor, " b"]:
        """The largest eigenvalue of Theta."""
        return self.spectrum.values.amax(-1)

    def train(self, y: Float[Tensor, "n c"], gain: Gain) -> Float[Tensor, "b n c"]:
        """The coefficients c after training with this gain; NaN for one that is not finite."""
        checks.reals(y=y)
        checks.shaped("y", y, *self.output.shape[1:])
        checks.finite(y=y)
        c = respond(self.spectrum, self.output - y, gain).to(self.output)
        lost = (self.largest == 0) | ~self.output.flatten(1).isfinite().all(-1)
        return torch.where(lost[:, None, None], torch.nan, c)

    def step(self, coefficients: Float[Tensor, "b n c"]) -> Params:
        """How the weights move: -J^T c / alpha."""
        self._require_like_outputs(coefficients)
        return self.jacobian.vjp(-coefficients / self.alpha.view(-1, 1, 1))

    def outputs(self, coefficients: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The model on the training inputs then: F - Theta c.

        By products with the spectrum, which loses nothing where c is large and F small.
        """
        self._require_like_outputs(coefficients)
        modes = self.spectrum.values * self.spectrum.into(coefficients)
        moved = self.spectrum.out(modes, coefficients.shape[-1])
        return self.output - moved.to(self.output)

    def _require_like_outputs(self, coefficients: Tensor) -> None:
        checks.alike(coefficients=coefficients, outputs=self.output)
        checks.shaped("coefficients", coefficients, *self.output.shape)


@dataclass(frozen=True)
class Round:
    """One round of b networks: the model, how long it was trained, where that ends."""

    index: int
    model: TangentModel
    start: Float[Tensor, " b"]  # training time at which it begins
    duration: Float[Tensor, " b"]
    steps: Float[Tensor, " b"]  # of gradient descent that it stands for, inf; 0: another gain
    coefficients: Float[Tensor, "b n c"]
    step: Params  # the change of the weights

    @property
    def params(self) -> Params:
        """The weights at the end of the round, the next anchor."""
        return {k: v + self.step[k] for k, v in self.model.anchor.items()}

    @property
    def linear_output(self) -> Float[Tensor, "b n c"]:
        """What the tangent model gives on the training inputs at the end of the round."""
        return self.model.outputs(self.coefficients)


def predictor(
    module: nn.Module, params0: Params, alpha: Float[Tensor, " b"]
) -> Callable[[Params, Tensor], Float[Tensor, "b m c"]]:
    """F(w, x) = alpha (f(w, x) - f(w0, x)) for a stack."""
    _require_each(stacks(module, params0=params0), alpha=alpha)
    scale = alpha.view(-1, 1, 1)

    def F(params: Params, x: Tensor) -> Tensor:
        together(module, params0=params0, params=params)
        with taken(x):
            f, f0 = (outputs(module, w, x) for w in (params, params0))
        require(f.dim() == 3, f"outputs must be (b, m, c), got {tuple(f.shape)}")
        return scale * (f - f0)

    return F


def slopes(
    module: nn.Module, anchor: Params, step: Params, x: Tensor, block: int = 1000
) -> Float[Tensor, "b m c"]:
    """How the outputs at inputs x (m, ...) change to first order in a step of the weights.

    J(x) dw by forward mode, block by block: no kernel between x and the training inputs is formed.
    The tangent model gives F(anchor, x) + alpha times this.
    """
    stacks(module, anchor=anchor, step=step)
    checks.kind("x", x)
    checks.sizes(block=block)

    def slope(part: Tensor) -> Tensor:
        return jvp(lambda w: outputs(module, w, part), (anchor,), (step,))[1]

    with taken(x):
        return torch.cat([slope(part) for part in x.split(block)], 1)


def relinearise(
    module: nn.Module,
    params0: Params,
    x: Tensor,
    y: Float[Tensor, "n c"],
    alpha: Float[Tensor, " b"],
    durations: Durations,
    rate: Float[Tensor, " b"] | None = None,
    margin: float = 0.5,
    gain: Callable[[Float[Tensor, " b"]], Gain] | None = None,
    loss: OutputLoss = SQUARED,
    batches: Iterator[Tensor] | None = None,
) -> Iterator[Round]:
    """Trains b networks in rounds of these durations (b,) each; yields every round at its end.

    A round stands for steps of gradient descent of length at most `rate` (b,), and at most `margin`
    of `linearised.stable_rate`, whose number is the smallest that fits the duration; an infinite
    duration fits the tangent model. `gain(duration)` puts another way to train in its place:
    `linearised.flow`, `damped`, `heavy_ball`. Another `loss` than the squared one, and `batches` of
    equal size, have no closed form: their steps are made one by one in the space of outputs, as
    many in each network. A batch of m stands for all n examples, with n / m times the rate.

    A network whose outputs are no longer finite stays in the stack with NaN. Raises ValueError for
    unusable input. Source: Goldwaser & Ge (2023).
    """
    b = stacks(module, params0=params0)
    _require_each(b, alpha=alpha)
    _require_steps(b, rate, margin)
    checks.examples(x=x)
    checks.kind("loss", loss, OutputLoss)
    closed = loss is SQUARED and batches is None
    require(closed or gain is None, "a gain is one of the squared loss on all examples")
    checks.reals(y=y)
    require(y.dim() == 2 and len(y) == len(x), f"y must be (n, c) for the {len(x)} examples")
    require_targets(loss, y)

    def train(model: TangentModel, duration: Tensor) -> tuple[Tensor, Tensor]:
        checks.shaped("y", y, *model.output.shape[1:])
        if gain is not None:
            return torch.zeros_like(duration), model.train(y, gain(duration.double()))
        if not closed:
            return _stepwise(model, y, duration, rate, margin, loss, batches)
        steps, chosen = stable_descent(model, duration, rate, margin)
        return steps, model.train(y, chosen)

    return _rounds(module, params0, x, alpha, durations, train)


def _rounds(module, params0, x, alpha, durations, train) -> Iterator[Round]:
    anchor, start = params0, torch.zeros_like(alpha)
    for index, duration in enumerate(durations):
        _require_each(len(alpha), True, duration=duration)
        model = TangentModel.at(module, params0, x, alpha, anchor)
        steps, c = train(model, duration)
        found = Round(index, model, start, duration, steps, c, model.step(c))
        yield found
        anchor, start = found.params, start + duration


def stable_descent(
    model: TangentModel,
    duration: Float[Tensor, " b"],
    rate: Float[Tensor, " b"] | None = None,
    margin: float = 0.5,
) -> tuple[Float[Tensor, " b"], Gain]:
    """The number of steps of gradient descent that a duration takes, and their gain.

    Equal steps, the fewest that are no longer than `rate` and than the share `margin` of
    2 / lambda_max, beyond which descent diverges.
    """
    b = len(model.alpha)
    _require_each(b, True, duration=duration)
    _require_steps(b, rate, margin)
    longest = _longest(model, duration, rate, margin, SQUARED)
    steps = (duration / longest).ceil()
    each = torch.where(steps.isinf(), longest, duration / steps)
    return steps, descent(each.double(), steps.double())


def _require_each(b: int, endless: bool = False, **given: Tensor) -> None:
    checks.positive(endless, **given)
    for name, v in given.items():
        require(len(v) == b, f"{name} must hold a number for each of {b} networks, got {len(v)}")


def _require_steps(b: int, rate: Tensor | None, margin: float) -> None:
    if rate is not None:
        _require_each(b, True, rate=rate)
    checks.number("margin", margin)
    require(0 < margin <= 1, f"margin must lie in (0, 1], got {margin}")


def _longest(model, duration, rate, margin, loss) -> Float[Tensor, " b"]:
    """The longest step that `rate` and `margin` allow."""
    stable = margin * stable_rate(model.largest.to(duration), loss)
    return stable if rate is None else torch.minimum(rate, stable)


def _stepwise(model, y, duration, rate, margin, loss, batches) -> tuple[Tensor, Tensor]:
    """The number of steps, and the coefficients after them, one by one."""
    require(bool(duration.isfinite().all()), "a duration without end has a closed form alone: "
            "it is for the squared loss on all examples")  # fmt: skip
    alive = model.largest > 0
    require(bool(alive.any()), "no network has a kernel that is finite and not zero")
    needed = (duration / _longest(model, duration, rate, margin, loss))[alive]
    count, share = int(needed.max().ceil()), 1.0
    if batches is not None:
        rows = next(batches, ())
        batches, share = _of_size(len(rows), chain([rows], batches)), len(rows) / len(y)
    each = (duration / (count * share)).view(-1, 1, 1).double()
    kernel, f = model.jacobian.gram().double(), model.output.double()
    states = descend_outputs(kernel, f, y.to(f).expand_as(f), loss, each, batches)
    c, _ = next(islice(states, count, None), (None, None))
    require(c is not None, f"the batches end before the {count} steps of a round")
    lost = ~(alive & model.output.flatten(1).isfinite().all(-1))
    c = torch.where(lost.view(-1, 1, 1), torch.nan, c).to(model.output)
    return torch.full_like(duration, count), c


def _of_size(size: int, batches: Iterator[Tensor]) -> Iterator[Tensor]:
    for rows in batches:
        require(len(rows) == size, f"batches must be of equal size, got {size} and {len(rows)}")
        yield rows
