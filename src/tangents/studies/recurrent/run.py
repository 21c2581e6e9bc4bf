"""Recurrent networks of infinite width: Alemohammad et al. (2021).

Their tangent kernel against those of finite networks, at the start and in training; which moments
of a series it weighs; and how well a machine with it classifies series, beside other kernels.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel, rbf_kernel
from torch import Tensor, nn

from tangents import infinite, kernels, models, svm
from tangents.data.series import SERIES, Series, load_series
from tangents.data.tasks import image_columns
from tangents.descent import gradient_descent, updates
from tangents.empirical import ntk
from tangents.functional import Params, outputs, stack
from tangents.lab.study import records
from tangents.problem import Problem
from tangents.recurrent import Recurrent
from tangents.studies.recurrent import dtw
from tangents.studies.recurrent.config import Sequences

RATE = 0.5  # of gradient descent, in units of n / lambda_max of the recurrent kernel
LOOKS = 1.3  # ratio of the steps at which training is looked at
CAP = 1e10  # cells of tables of time warping, at most
FREQUENCIES = (4.0, 5.0)  # of the two kinds of sines, periods a series

# Settings among which cross-validation chooses, as many for each kernel
RECURRENT = [dict(sw=sw, sb=sb, sh=sh)
             for sw, sb, sh in itertools.product((math.sqrt(2), 1.34, 1.47), (0.1, 0.0, 0.5),
                                                 (0.0, 0.5))]  # fmt: skip
# of the range that the authors are said to have searched
WIDE = [dict(sw=sw, sb=sb)
        for sw, sb in itertools.product((math.sqrt(2), 1.4, 1.43, 1.37, 1.34, 1.47),
                                        (0.5, 0.1, 1.0, 0.0, 2.0))]  # fmt: skip
CONNECTED = [dict(depth=depth, shift=shift)
             for depth, shift in itertools.product((2, 1, 3, 4, 5, 6), (0.1, 0.0, 0.5))
             ]  # fmt: skip
GAUSSIAN = [dict(gamma=2.0**k) for k in range(-8, 10)]  # over the mean squared distance
POLYNOMIAL = [dict(degree=degree, shift=shift)
              for degree, shift in itertools.product((2, 1, 3, 4, 5, 6), (1.0, 0.1, 0.0))
              ]  # fmt: skip


# ---- series


@lru_cache(maxsize=4)
def task(c: Sequences) -> Series:
    """Series (n, t, m), standardised; of images the columns."""
    seed = c.seed if c.data_seed < 0 else c.data_seed
    if c.series in SERIES:
        found = _standardised(load_series(c.series))
    elif c.series == "sines":
        found = sines(c.n, c.n_test, c.steps, c.noise, seed)
    else:
        found = image_columns(c.series, c.n, c.n_test, c.pool, c.cut, seed)
    generator = np.random.default_rng(seed)
    if c.scrambled:
        found = replace(found, x=found.x[:, generator.permutation(found.x.shape[1])])
    if c.shuffled:
        y, n = found.y.copy(), found.train
        y[:n] = generator.permutation(y[:n])
        found = replace(found, y=y)
    return found


def _standardised(found: Series) -> Series:
    """Mean 0 and variance 1 over all steps of the training series."""
    steps = np.arange(found.x.shape[1]) < found.lengths[:, None]
    train = found.x[: found.train][steps[: found.train]]
    x = np.where(steps, (found.x - train.mean()) / (train.std() or 1.0), 0.0)
    return replace(found, x=x[..., None])


def sines(n: int, n_test: int, steps: int, noise: float, seed: int) -> Series:
    """Two kinds of sines, of other frequency, each of its own phase, in noise."""
    generator = np.random.default_rng(seed)
    y = np.arange(n + n_test) % 2
    time = np.arange(steps) / steps
    phase = generator.uniform(0, 2 * np.pi, (len(y), 1))
    x = np.sin(2 * np.pi * np.take(FREQUENCIES, y)[:, None] * time + phase)
    x = x + noise * generator.normal(size=x.shape)
    return Series(x[..., None] / x[:n].std(), np.full(len(y), steps), y, n)


def tensors(c: Sequences, device: str, padded: bool = False) -> tuple[Tensor, Tensor]:
    """All series and their lengths; `padded`: with zeros, which count."""
    data = task(c)
    lengths = np.full(len(data.x), data.x.shape[1]) if padded else data.lengths
    x = torch.from_numpy(data.x).to(device=device, dtype=getattr(torch, c.dtype))
    return x, torch.from_numpy(lengths)


# ---- networks


def infinite_network(c: Sequences, **other) -> Recurrent:
    return Recurrent(**(dict(layers=c.layers, activation=c.activation, sw=c.sw, sb=c.sb) | other))


def network(c: Sequences, x: Tensor, device: str) -> tuple[nn.Module, Params]:
    """A recurrent network of finite width, a stack of one, for series with their presence."""
    module = models.RNN(x.shape[2], c.width, c.layers, 1, c.activation, c.sw, sb=c.sb)
    return module, stack([models.initialise(module, c.seed, x.dtype, device)])


def present(x: Tensor, lengths: Tensor) -> Tensor:
    """The series with a last feature that says which steps are there, aligned at their ends."""
    t = x.shape[1]
    place = torch.arange(t) - (t - lengths[:, None])
    there = (place >= 0).to(x)
    at = place.clamp(min=0).to(x.device)[..., None].expand_as(x)
    return torch.cat([x.gather(1, at) * there[..., None], there[..., None]], -1)


def limit(c: Sequences, device: str) -> Iterator[dict]:
    """How far a finite network's kernel is from that of infinite width, and from others."""
    x, lengths = tensors(c, device)
    module, params = network(c, x, device)
    found = ntk(module, params, present(x, lengths), outputs="trace")[0]
    wide = infinite_network(c).kernels(x, lengths1=lengths)[1]
    deeper = infinite_network(c, layers=c.layers + 1).kernels(x, lengths1=lengths)[1]
    padded = infinite_network(c).kernels(x)[1]
    others = dict(kernel_error_deeper=deeper) | (dict(kernel_error_padded=padded) if c.cut else {})
    metrics = {name: kernels.distance(found, k) for name, k in others.items()}
    yield dict(kernel_error=kernels.distance(found, wide), converged=True, **metrics)


def targets(c: Sequences, device: str) -> Tensor:
    """Odd classes against even ones."""
    return torch.from_numpy(2.0 * (task(c).y % 2) - 1).to(device, getattr(torch, c.dtype))


class Training:
    """Gradient descent on all training series, down to `goal` times the first loss."""

    def __init__(self, c: Sequences, device: str):
        self.c, self.n = c, task(c).train
        x, lengths = tensors(c, device)
        self.lengths = lengths
        self.module, self.params0 = network(c, x, device)
        self.x, self.y = present(x, lengths), targets(c, device)
        theta = infinite_network(c).kernels(x, x[: self.n], lengths, lengths[: self.n])[1] / self.n
        self.theta, self.theta_test = theta[: self.n], theta[self.n :]
        self.values, self.vectors = torch.linalg.eigh(self.theta)
        self.rate = RATE / self.values[-1].item()

    def states(self) -> Iterator:
        """Each state of training, and whether it is the last."""
        c, n = self.c, self.n
        problem = Problem.start(self.module, self.params0, self.x[:n], self.y[:n],
                                self.y.new_ones(1), "square")  # fmt: skip
        rates = self.y.new_full((1,), self.rate)
        for state in updates(problem, self.params0, gradient_descent(rates), c.max_steps):
            loss = state.loss.item()
            fitted = loss < c.goal / 2  # the first loss is 1 / 2
            ended = fitted or not math.isfinite(loss) or state.step == c.max_steps
            yield state, fitted, ended
            if ended:
                return

    def grown(self, steps: int) -> Tensor:
        """The share of each mode that is learnt after so many steps at infinite width."""
        return -torch.expm1(steps * torch.log1p(-self.rate * self.values.clamp(min=0)))

    def weights(self, steps: int) -> Tensor:
        """The function learnt then is Theta(., training series) times these."""
        of = torch.where(self.values > 0, self.grown(steps) / self.values, self.rate * steps)
        return self.vectors @ (of * (self.vectors.mT @ self.y[: self.n])) / self.n

    def steps(self) -> int:
        """Those that it takes to the goal at infinite width."""
        modes, y = self.vectors.mT @ self.y[: self.n], self.y[: self.n]
        for steps in range(self.c.max_steps):
            left = (modes * (1 - self.grown(steps))).square().sum()
            if left < self.c.goal * y.square().sum():
                return steps
        return self.c.max_steps

    def predicted(self, steps: int) -> Tensor:
        """What the network of infinite width has learnt of the test series after these steps."""
        return self.n * self.theta_test @ self.weights(steps)

    def learnt(self, params: Params) -> Tensor:
        with torch.no_grad():
            f, f0 = (outputs(self.module, p, self.x[self.n :]) for p in (params, self.params0))
        return (f - f0)[0, :, 0]


def train(c: Sequences, device: str) -> Iterator[dict]:
    """How far the kernel moves in training, and the network from that of infinite width."""
    training = Training(c, device)

    def kernel(params: Params) -> Tensor:
        return ntk(training.module, params, training.x[: training.n], outputs="trace")[0]

    kernel0 = kernel(training.params0)
    for state, fitted, ended in training.states():
        if ended:
            change = kernels.distance(kernel(state.params), kernel0)
            f, wide = training.learnt(state.params), training.predicted(state.step)
            yield dict(step=state.step, loss=state.loss, kernel_change=change, converged=fitted,
                       output_error=(f - wide).norm() / wide.norm())  # fmt: skip


# ---- moments


def moments(c: Sequences, device: str) -> Iterator[dict]:
    """Shares of the steps in the derivative at test series, and their mean place, `centre`: 0 is
    the first step, 1 the last. Of the kernel's values between these and training series, of what
    the network of infinite width learns with it, or of what one of finite width has learnt."""
    n, fitted = task(c).train, True
    x, lengths = tensors(c, device)
    if c.of == "network":
        training = Training(c, device)
        *_, (state, fitted, _) = training.states()
        x = training.x[n:].requires_grad_()
        f, f0 = (outputs(training.module, p, x) for p in (state.params, training.params0))
        gradients = torch.autograd.grad((f - f0).sum(), x)[0][None, ..., :-1]
    else:
        new = x[n:].clone().requires_grad_()
        theta = infinite_network(c).kernels(new, x[:n], lengths[n:], lengths[:n])[1]
        if c.of == "prediction":
            training = Training(c, device)
            theta = theta @ training.weights(training.steps())[:, None]
        each = [torch.autograd.grad(k.sum(), new, retain_graph=True)[0] for k in theta.mT]
        gradients = torch.stack(each)
    sizes = gradients.norm(dim=-1).mean((0, 1))
    shares = sizes / sizes.sum()
    for step, share in enumerate(shares):
        yield dict(step=step, share=share)
    place = torch.linspace(0, 1, len(shares)).to(shares)
    yield dict(step=len(shares), centre=(place * shares).sum(), converged=fitted)


# ---- machines

Grams = Iterator[tuple[int, np.ndarray]]


def grams(c: Sequences, device: str, settings: list[dict], rows: slice, columns: slice) -> Grams:
    """The kernel at each of the settings, of the method's, between some series and others."""
    x, lengths = tensors(c, device, c.method == "padded")
    same = rows == columns
    a, b = x[rows].flatten(1), x[columns].flatten(1)
    if c.method == "gaussian":
        spread = euclidean_distances(x[: task(c).train].flatten(1).cpu(), squared=True).mean()
    for place, setting in enumerate(settings):
        if SETTINGS[c.method] in (RECURRENT, WIDE):
            readout = "steps" if c.method == "averaged" else "last"
            net = Recurrent(c.layers, c.activation, readout=readout, **setting)
            other = () if same else (x[columns],)
            ends = dict(lengths1=lengths[rows]) | ({} if same else dict(lengths2=lengths[columns]))
            k = net.kernels(x[rows], *other, **ends)[1].cpu().numpy()
        elif c.method == "connected":
            ones = [setting["shift"] * math.sqrt(v.shape[1]) * v.new_ones(len(v), 1)
                    for v in (a, b)]  # fmt: skip
            left, right = (torch.cat([v, one], 1) for v, one in zip((a, b), ones, strict=True))
            k = infinite.fully_connected(left, None if same else right, setting["depth"], "relu",
                                         False)[1].cpu().numpy()  # fmt: skip
        elif c.method == "gaussian":
            k = rbf_kernel(a.cpu(), b.cpu(), setting["gamma"] / spread)
        else:
            k = polynomial_kernel(a.cpu(), b.cpu(), setting["degree"], 1 / a.shape[1],
                                  setting["shift"])  # fmt: skip
        yield place, k


SETTINGS: dict[str, list[dict]] = dict(
    recurrent=RECURRENT, padded=RECURRENT, wide=WIDE, averaged=WIDE, connected=CONNECTED,
    gaussian=GAUSSIAN, polynomial=POLYNOMIAL,
)  # fmt: skip


def classify(c: Sequences, device: str) -> Iterator[dict]:
    """The test error of a machine whose settings were chosen on the training series."""
    data = task(c)
    n, y = data.train, data.y
    train, test = slice(0, n), slice(n, len(y))
    common = np.bincount(y[:n]).argmax()
    always = dict(error_common=(y[n:] != common).mean())
    if c.method == "dtw":
        if n * (len(y) - n) * data.x.shape[1] ** 2 > CAP:
            yield dict(**always, converged=False)
            return
        x = data.x[..., 0]
        apart = dtw.distances(x[n:], x[:n], data.lengths[n:], data.lengths[:n])
        wrong = y[:n][apart.argmin(1)] != y[n:]
        yield dict(**always, error=wrong.mean(), converged=True)
        return
    settings = SETTINGS[c.method]
    parts = svm.folds(y[:n], seed=c.seed)
    best = svm.choose(grams(c, device, settings, train, train), y[:n], parts=parts)
    chosen = [settings[best.key]]
    (_, k), (_, k_test) = (next(grams(c, device, chosen, rows, train)) for rows in (train, test))
    wrong = svm.classify(k, y[:n], k_test, best.cost) != y[n:]
    yield dict(**always, error=wrong.mean(), error_validation=best.error, cost=best.cost,
               converged=True, **{f"chosen_{k}": v for k, v in chosen[0].items()})  # fmt: skip


MEASURES: dict[str, Callable[[Sequences, str], Iterator[dict]]] = dict(
    limit=limit, train=train, moments=moments, classify=classify
)


def run(configs: list[Sequences], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Each config by itself."""
    for i, c in enumerate(configs):
        rows: list[dict] = []
        for metrics in MEASURES[c.measure](c, device):
            step = metrics.pop("step", 0)
            rows += records(step, step, "test", **metrics)
        yield i, rows, {}
