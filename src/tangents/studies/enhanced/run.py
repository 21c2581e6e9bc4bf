"""Recurrent kernels on tables: Alemohammad et al. (2020).

Kernels of recurrent networks that read one attribute a step, against other kernels, forests and
neighbours. Every method chooses among its settings in the same ways.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

from tangents import svm
from tangents.data.sets import load_table
from tangents.data.uci import Examples, Split, load_examples
from tangents.infinite import fully_connected
from tangents.lab.study import records
from tangents.recurrent import Recurrent
from tangents.studies.enhanced.config import Enhanced

# The published grid: sw = sqrt 2, sh = 0, sv = 1
LAYERS, SU, SB = (1, 2), (0.25, 0.5), (0.001, 0.1)
WIDE = [10.0**k for k in range(-2, 7, 2)]  # costs of kernels as they are
COSTS = [10.0**k for k in range(-2, 5)]  # of kernels whose mean diagonal is 1
NAMES = {"last": ("rntk", "bi"), "steps": ("avg", "bi-avg")}  # by read-out: one or both directions
RECURRENT = {name: readout for readout, names in NAMES.items() for name in names}
DEPTHS = range(1, 6)  # hidden layers of fully connected networks
GAMMAS = [2.0**k for k in range(-10, 9, 2)]  # of exp(-gamma |x - x'|^2 / d)
DEGREES, STRETCH = (2, 3, 4), (1 / 16, 1 / 4, 1, 4)  # of (1 + stretch <x, x'> / d)^degree
SHARES = ("sqrt", 1 / 3, 1.0)  # of attributes, that a node of a tree chooses from
NEAREST = (1, 3, 5, 7, 9, 13, 17, 25)
TUNING, FOLDS, INNER = 0, range(1, 5), range(5, 9)  # places of the splits


@dataclass(frozen=True, eq=False)
class Task:
    """Attributes and classes, and splits: that for tuning, four for testing, and for each of these
    the first one without its test examples. Kernels are computed on `device`."""

    x: np.ndarray
    y: np.ndarray
    splits: list[Split]
    device: str = "cpu"

    @property
    def inputs(self) -> torch.Tensor:
        return torch.from_numpy(self.x).to(self.device)


def task(c: Enhanced, device: str = "cpu") -> Task:
    data = load_examples(c.dataset) if c.source == "uci" else drawn(c)
    draw = np.random.default_rng(c.seed)
    y = draw.permutation(data.y) if c.shuffled else data.y
    x = data.x[:, draw.permutation(data.x.shape[1])] if c.mixed else data.x
    inner = [Split(*(np.setdiff1d(part, fold.test) for part in data.tuning)) for fold in data.folds]
    return Task(x, y, [data.tuning, *data.folds, *inner], device)


def drawn(c: Enhanced) -> Examples:
    """A table of scikit-learn with splits like those of UCI's."""
    x, y = load_table(c.dataset)
    draw = np.random.default_rng(c.seed)
    chosen = draw.permutation(len(x))[: c.n or len(x)]
    x, n = (x[chosen] - x[chosen].mean(0)) / x[chosen].std(0), len(chosen)

    def split(share: float) -> Split:
        order = draw.permutation(n)
        return Split(order[: round(share * n)], order[round(share * n) :])

    return Examples(x, y[chosen], split(1 / 2), tuple(split(3 / 4) for _ in FOLDS))


# ---- methods: each is a list of settings


class Answer(NamedTuple):
    """Classes of a split's test examples, and whether what gave them came to its end."""

    classes: np.ndarray
    ended: bool = True


@dataclass(frozen=True, eq=False)
class Setting:
    """One way to classify: what is chosen, and what answers for a split of that number."""

    chosen: dict[str, float]
    answer: Callable[[int], Answer]


def machines(task: Task, k: np.ndarray, costs: list[float], **chosen: float) -> list[Setting]:
    """Support vector machines on a kernel; none where it is not finite."""

    def answer(cost: float, i: int) -> Answer:
        train, test = task.splits[i]
        y = task.y[train]
        if (y == y[0]).all():
            return Answer(np.full(len(test), y[0]))
        machine = svm.fit(k[np.ix_(train, train)], y, cost)
        return Answer(machine.predict(k[np.ix_(test, train)]), not machine.fit_status_)

    if not np.isfinite(k).all():
        return []
    return [Setting(chosen | {"cost": cost}, cache(partial(answer, cost))) for cost in costs]


@lru_cache(maxsize=2)
def recurrent(task: Task, readout: str) -> dict[str, list[Setting]]:
    """Kernels of recurrent networks, the largest example of length 1: of their trained read-out
    alone (all layers frozen), and of all weights."""
    x = (task.inputs / task.inputs.norm(dim=1).max()).unsqueeze(-1)
    found = {name: [] for name in NAMES[readout]}
    for layers, su, sb in product(LAYERS, SU, SB):
        net = Recurrent(layers, su=su, sb=sb, readout=readout)
        each = zip(net.kernels(x), net.kernels(x.flip(1)), strict=True)
        for frozen, (there, back) in zip((layers, 0), each, strict=True):
            for name, k in zip(NAMES[readout], (there, there + back), strict=True):
                found[name] += machines(task, k.cpu().numpy(), WIDE, layers=layers, su=su,
                                        sb=sb, frozen=frozen)  # fmt: skip
    return found


def normalised(k: np.ndarray) -> np.ndarray:
    return k / k.diagonal().mean()


def connected(task: Task) -> Iterator[Setting]:
    """Kernels of fully connected networks; one example may be all zeros."""
    there = task.x.any(1)
    at, x = np.ix_(there, there), task.inputs[torch.from_numpy(there)]
    for depth in DEPTHS:
        each = fully_connected(x, None, depth, "relu", False)
        for frozen, k in zip((depth, 0), each, strict=True):
            whole = np.zeros((len(there), len(there)))
            whole[at] = k.cpu().numpy()
            yield from machines(task, normalised(whole), COSTS, layers=depth, frozen=frozen)


def gaussian(task: Task) -> Iterator[Setting]:
    distances = squares(task.x) / task.x.shape[1]
    for gamma in GAMMAS:
        yield from machines(task, np.exp(-gamma * distances), COSTS, gamma=gamma)


def polynomial(task: Task) -> Iterator[Setting]:
    products = task.x @ task.x.T / task.x.shape[1]
    for degree, stretch in product(DEGREES, STRETCH):
        k = (1 + stretch * products) ** degree
        yield from machines(task, normalised(k), COSTS, degree=degree, stretch=stretch)


def linear(task: Task) -> list[Setting]:
    return machines(task, normalised(1 + task.x @ task.x.T / task.x.shape[1]), COSTS)


def squares(x: np.ndarray) -> np.ndarray:
    """Squared distances."""
    own = np.square(x).sum(1)
    return (own[:, None] + own - 2 * x @ x.T).clip(min=0)


def forest(task: Task, trees: int, seed: int) -> list[Setting]:
    def answer(share: float | str, i: int) -> Answer:
        train, test = task.splits[i]
        found = RandomForestClassifier(trees, max_features=share, random_state=seed)
        return Answer(found.fit(task.x[train], task.y[train]).predict(task.x[test]))

    return [Setting({"share": place}, cache(partial(answer, share)))
            for place, share in enumerate(SHARES)]  # fmt: skip


def neighbours(task: Task) -> list[Setting]:
    distances = squares(task.x)

    def answer(k: int, i: int) -> Answer:
        train, test = task.splits[i]
        order = np.argsort(distances[np.ix_(test, train)], axis=1, kind="stable")[:, :k]
        return Answer(majority(task.y[train][order]))

    return [Setting({"nearest": k}, cache(partial(answer, k))) for k in NEAREST]


def settings(c: Enhanced, task: Task) -> list[Setting]:
    """Those among which the method chooses."""
    if c.method == "all":
        return [s for readout in NAMES for each in recurrent(task, readout).values() for s in each]
    if c.method in RECURRENT:
        return recurrent(task, RECURRENT[c.method])[c.method]
    if c.method == "forest":
        return forest(task, c.trees, c.seed)
    methods = dict(ntk=connected, rbf=gaussian, polynomial=polynomial, linear=linear,
                   neighbours=neighbours)  # fmt: skip
    return list(methods[c.method](task))


# ---- how they are chosen, and what becomes of them


def majority(votes: np.ndarray) -> np.ndarray:
    """The most frequent class of each row (n, k), of equals the first."""
    counts = np.zeros((len(votes), votes.max() + 1), int)
    np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
    return counts.argmax(1)


def wrong(task: Task, classes: np.ndarray, i: int) -> float:
    """The share of a split's test examples that is classified wrongly."""
    return float(np.mean(classes != task.y[task.splits[i].test]))


def best(task: Task, among: list[Setting], i: int) -> list[Setting]:
    """The settings with the least error on a split; of an even number all but the last, so that
    they can vote, as in the authors' code."""
    errors = [wrong(task, setting.answer(i).classes, i) for setting in among]
    tied = [s for s, error in zip(among, errors, strict=True) if error == min(errors)]
    return tied if len(tied) % 2 else tied[:-1]


def voted(task: Task, members: list[Setting], i: int) -> float:
    """The error of the majority of these settings on a split."""
    votes = np.stack([setting.answer(i).classes for setting in members], 1)
    return wrong(task, majority(votes), i)


def measured(c: Enhanced, task: Task) -> dict[str, Any]:
    """Mean errors on the four test parts of the settings that are best on the tuning split
    ("published"); on it without the part's examples, for each part anew ("nested"), or without as
    many others ("seen"); and on the test parts themselves ("folds")."""
    among = settings(c, task)
    if not among:
        return {"converged": False}
    tuned = best(task, among, TUNING)
    nested = [best(task, among, i) for i in INNER]

    def mean(chosen: Callable[[int], list[list[Setting]]]) -> float:
        return np.mean([voted(task, s, i) for k, i in enumerate(FOLDS) for s in chosen(k)])

    most = np.bincount(task.y).argmax()
    return {
        "converged": True,
        "error_published": mean(lambda _: [tuned]),
        "error_nested": mean(lambda k: [nested[k]]),
        "error_seen": mean(lambda k: nested[:k] + nested[k + 1 :]),
        "error_folds": min(mean(lambda _, s=s: [[s]]) for s in among),
        "error_majority": np.mean([wrong(task, most, i) for i in FOLDS]),
        "examples": len(task.y),
        "settings": len(among),
        "tied": len(tuned),
        "unfinished": np.mean([not setting.answer(TUNING).ended for setting in among]),
        **{f"chosen_{name}": value for name, value in tuned[0].chosen.items()},
    }


def run(configs: list[Enhanced], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Configs that differ in the method share data, kernels and what was classified with them."""
    data = task(configs[0], device)
    for i, c in enumerate(configs):
        yield i, records(0, 0.0, "test", **measured(c, data)), {}
    recurrent.cache_clear()
