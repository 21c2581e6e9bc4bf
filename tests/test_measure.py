"""How lazy a training was, against networks whose laziness is known."""

import math

import pytest
import torch
from torch import nn

from tangents import kernels, models
from tangents.empirical import ntk
from tangents.measure import WORDS, Laziness, measure
from tests.cases import normal


def moved(module, seed=0, by=0.3):
    before = models.initialise(module, seed)
    after = {k: v + by * normal(*v.shape, seed=seed + 1) for k, v in before.items()}
    return before, after


def test_a_model_that_is_linear_in_its_weights_is_lazy():
    module = nn.Linear(4, 3).double()
    before = {k: p.detach() for k, p in module.named_parameters()}
    after = {k: v + normal(*v.shape) for k, v in before.items()}
    found = measure(module, before, after, normal(30, 4))
    for name in ("nonlinear", "turn", "turn_centred", "kernel_change"):
        assert abs(found[name].value) < 1e-12
    length = sum((after[k] - v).square().sum() for k, v in before.items()).sqrt()
    size = sum(v.square().sum() for v in before.values()).sqrt()
    assert found["distance"].value == pytest.approx((length / size).item())


def test_the_larger_the_step_the_less_lazy():
    module, x = models.MLP(4, 32, 2, 2, "tanh"), normal(30, 4)
    shares = [measure(module, *moved(module, by=by), x)["nonlinear"].value
              for by in (1e-3, 1e-2, 0.1, 1.0)]  # fmt: skip
    assert shares == sorted(shares) and shares[0] < 1e-2
    # to first order the remainder is quadratic in the step
    assert shares[1] / shares[0] == pytest.approx(10, rel=0.05)


def test_kernel_measures_are_those_of_the_kernels():
    module, x = models.MLP(4, 16, 2, 3, "tanh"), normal(24, 4)
    before, after = moved(module)
    y = torch.arange(24) % 3
    found = measure(module, before, after, x, y)
    k0, k1 = (ntk(module, p, x, outputs="trace") for p in (before, after))
    assert found["turn"].value == pytest.approx(1 - kernels.cosine(k1, k0).item())
    assert found["kernel_change"].value == pytest.approx(kernels.distance(k1, k0).item())
    told = (y[:, None] == y).double()
    want = kernels.centred_alignment(k1, told).item()
    assert found["alignment_after"].value == pytest.approx(want)
    assert list(found) == list(WORDS)
    assert all(m.low <= m.value <= m.high for n, m in found.items() if n != "distance")


def test_a_kernel_that_knows_the_labels_errs_less():
    """The last layer's features become the labels."""
    module = models.MLP(2, 64, 1, 1, "tanh")
    before = models.initialise(module, 0)
    x, wide = normal(60, 2), {"hidden.0.weight": torch.zeros(64, 2).double()}
    wide["hidden.0.weight"][:, 0] = 30.0  # units that tell the sign of the first number
    found = measure(module, before, before | wide, x, (x[:, 0] > 0).long())
    assert found["error_after"].value <= found["error_before"].value
    assert found["alignment_after"].value > 0.9 > found["alignment_before"].value
    real = measure(module, before, before | wide, x, x[:, 0].sign())
    assert real["error_after"].value < 0.1 < real["error_before"].value


def test_the_interval_covers_what_more_examples_say():
    module = models.MLP(4, 16, 2, 1, "tanh")
    before, after = moved(module)
    truth = measure(module, before, after, normal(800, 4, seed=9))["nonlinear"].value
    hits = 0
    for seed in range(20):
        _, low, high = measure(module, before, after, normal(40, 4, seed=seed))["nonlinear"]
        hits += low <= truth <= high
    assert hits >= 15


def test_it_reads_as_a_table():
    module = models.MLP(4, 8, 1, 1, "tanh")
    text = str(measure(module, *moved(module), normal(20, 4)))
    assert len(text.splitlines()) == 5 and "nonlinear share R" in text
    one = Laziness(turn=measure(module, *moved(module), normal(20, 4))["turn"])
    assert "\n" not in str(one)


@pytest.mark.parametrize("change, message", [
    (dict(x=normal(10, 4)), "at least 20 examples"),
    (dict(after=None), "are the same"),
    (dict(y=torch.zeros(20, dtype=torch.long)), "one class"),
    (dict(y=torch.arange(7)), "labels must be of the 20 examples, got 7"),
    (dict(y=torch.full((20,), math.nan)), "finite and vary"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(change, message):
    module = models.MLP(4, 8, 1, 1, "tanh")
    before, after = moved(module)
    given = dict(before=before, after=after, x=normal(20, 4)) | change
    given["after"] = given["after"] or before
    with pytest.raises(ValueError, match=message):
        measure(module, **given)
