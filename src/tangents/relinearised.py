"""Training in rounds: the tangent model at an anchor is trained for a while, its end is the next
anchor (Goldwaser & Ge 2023, iterative linearisation).

All takes stacks of b networks. What is trained is F = alpha (f - f0) with the squared loss
|F - y|^2 / (2 alpha^2), summed over examples, so that dF/dt = -Theta (F - y) at every alpha, with
Theta = J J^T the kernel of f. Time is that of this flow; of a mean over n examples it is n times as
long.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp

from tangents.empirical import jacobian
from tangents.factored import Jacobian
from tangents.functional import Params, require, stacked
from tangents.linearised import Gain, Spectrum, descent, respond, spectrum

Durations = Iterable[Float[Tensor, " b"]]


@dataclass(frozen=True)
class Round:
    """One round of b networks: where it began, what it learnt, where it ends."""

    index: int
    anchor: Params  # (b, ...), where the network is linearised
    output: Float[Tensor, "b n c"]  # F there, on the training inputs
    jacobian: Jacobian  # of f there
    spectrum: Spectrum  # of Theta
    start: Float[Tensor, " b"]  # training time at which it begins
    duration: Float[Tensor, " b"]
    steps: Float[Tensor, " b"]  # of gradient descent that it stands for, inf; 0: another gain
    coefficients: Float[Tensor, "b n c"]  # c: the weights move by -J^T c / alpha
    step: Params  # that change of the weights

    @property
    def params(self) -> Params:
        """The weights at the end of the round, the next anchor."""
        return {k: self.anchor[k] + self.step[k] for k in self.anchor}

    @property
    def linear_output(self) -> Float[Tensor, "b n c"]:
        """What the tangent model gives on the training inputs at the end of the round: F - Theta c.

        By products with the spectrum, which loses nothing where c is large and F small.
        """
        c = self.output.shape[-1]
        modes = self.spectrum.values * self.spectrum.into(self.coefficients)
        return self.output - self.spectrum.out(modes, c).to(self.output)


def predictor(
    module: nn.Module, params0: Params, alpha: Float[Tensor, " b"]
) -> Callable[[Params, Tensor], Float[Tensor, "b m c"]]:
    """F(w, x) = alpha (f(w, x) - f(w0, x)) for a stack."""
    scale = alpha.view(-1, 1, 1)

    def F(params: Params, x: Tensor) -> Tensor:
        f, f0 = (functional_call(module, w, (x,)) for w in (params, params0))
        return scale * (f - f0)

    return F


def linear_predictions(
    module: nn.Module,
    params0: Params,
    alpha: Float[Tensor, " b"],
    found: Round,
    x: Tensor,
    block: int = 1000,
) -> Float[Tensor, "b m c"]:
    """What the tangent model of a round gives at inputs x (m, ...) at its end, block by block.

    F(anchor, x) + alpha J(x) dw by one forward-mode pass: no kernel between x and the training
    inputs is formed.
    """
    scale, parts = alpha.view(-1, 1, 1), []
    for some in x.split(block):
        f0 = functional_call(module, params0, (some,))
        f, slope = jvp(
            lambda w, some=some: functional_call(module, w, (some,)), (found.anchor,), (found.step,)
        )
        parts.append(scale * (f - f0 + slope))
    return torch.cat(parts, 1)


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
) -> Iterator[Round]:
    """Trains b networks in rounds of these durations (b,) each; yields every round at its end.

    A round stands for steps of gradient descent of length at most `rate` (b,), and at most `margin`
    of the largest stable one, 2 / lambda_max, whose number is the smallest that fits the duration;
    an infinite duration fits the tangent model. `gain(duration)` puts another way to train in its
    place: `linearised.flow`, `damped`. A network whose outputs are no longer finite stays in the
    stack with NaN. Raises ValueError for unusable input. Source: Goldwaser & Ge (2023), section 3.
    """
    b = stacked(module, params0)
    require(alpha.shape == (b,), f"alpha must hold a number for each of {b} networks")
    require(bool(((alpha > 0) & alpha.isfinite()).all()), "alpha must be positive and finite")
    require(y.dim() == 2 and len(y) == len(x) > 0, f"y must be (n, c) for the {len(x)} examples")
    require(rate is None or rate.shape == (b,), f"rate must hold a number for each of {b} networks")
    require(0 < margin <= 1, f"margin must lie in (0, 1], got {margin}")
    return _rounds(module, params0, x, y, alpha, durations, rate, margin, gain)


def _rounds(module, params0, x, y, alpha, durations, rate, margin, gain) -> Iterator[Round]:
    F, anchor, start = predictor(module, params0, alpha), params0, torch.zeros_like(alpha)
    for index, duration in enumerate(durations):
        require(bool((duration > 0).all()), "the duration of a round must be positive")
        J, output = jacobian(module, anchor, x), F(anchor, x)
        kernel = J.gram().double()
        lost = ~(kernel.flatten(1).isfinite().all(-1) & output.flatten(1).isfinite().all(-1))
        kernel[lost] = 0
        modes = spectrum(kernel)
        if gain is None:
            stable = margin * 2 / modes.values.amax(-1).to(duration)
            longest = stable if rate is None else torch.minimum(rate, stable)
            steps = (duration / longest).ceil()
            each = torch.where(steps.isinf(), longest, duration / steps)
            chosen = descent(each.double(), steps.double())
        else:
            steps, chosen = torch.zeros_like(duration), gain(duration.double())
        c = respond(modes, output - y, chosen).to(J.value)
        c[lost] = torch.nan
        step = J.vjp(-c / alpha.view(-1, 1, 1))
        found = Round(index, anchor, output, J, modes, start, duration, steps, c, step)
        yield found
        anchor, start = found.params, start + duration
