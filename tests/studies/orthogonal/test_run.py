"""The study of orthogonal weights: tiny runs against what they have to be."""

import math

import pytest
import torch
from torch.func import functional_call

from tangents import infinite, kernels, models
from tangents.empirical import ntk
from tangents.functional import linearise
from tangents.lab.study import ConfigError, coerce
from tangents.studies.orthogonal import run as orthogonal
from tangents.studies.orthogonal.config import Orthogonal
from tests.cases import close

TINY = dict(dataset="digits", pool=1, n=12, width=16)
FULL = TINY | dict(train="full", rate=0.3, goal=0.5, max_steps=500)
SGD = TINY | dict(train="sgd", n=60, batch=20, activation="tanh", variance=1.05, depth=2,
                  goal=0.3, max_steps=200)  # fmt: skip


def run(*configs):
    """{metric: [(step, value)]} of each network, all in one stack."""
    found = [{} for _ in configs]
    for i, rows, arrays in orthogonal.run([Orthogonal(**c) for c in configs], "cpu"):
        assert not arrays
        for row in rows:
            found[i].setdefault(row["metric"], []).append((row["step"], row["value"]))
    return found


def last(found, metric):
    return found[metric][-1][1]


def test_rows_hold_every_metric():
    start = {"kernel_error", "kernel_error_other", "converged"}
    (found,) = run(TINY)
    assert found.keys() == start
    (found,) = run(FULL)
    moved = {"moved_first", "moved_middle", "moved_last"}
    assert found.keys() == start | moved | {"loss", "kernel_change", "steps", "steps_limit"}
    (found,) = run(SGD | dict(rate=0.3))
    singular = {"singular_largest", "singular_rms"}
    assert found.keys() == singular | {"converged", "steps", "kernel_change"}


def test_a_network_in_a_stack_is_the_network_alone():
    for given in (FULL, SGD | dict(rate=0.3)):
        configs = [given | dict(weights=w, rate=given["rate"] * r)
                   for w in ("gaussian", "orthogonal") for r in (0.1, 1)]  # fmt: skip
        for together, c in zip(run(*configs), configs, strict=True):
            (alone,) = run(c)
            assert alone.keys() == together.keys()
            for metric, rows in alone.items():
                for (step, value), (other, same) in zip(rows, together[metric], strict=True):
                    assert step == other and value == pytest.approx(same, rel=1e-8)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_distance_to_the_limits(weights):
    c = Orthogonal(**TINY | dict(weights=weights, seed=3))
    x = orthogonal.task(c, "cpu").x
    module = models.MLP(64, 16, 3, activation="erf", bias=False)
    draw = models.orthogonal if weights == "orthogonal" else models.normal
    kernel = ntk(module, models.initialise_stack(module, [3], draw=draw), x, outputs="trace")[0]
    (found,) = run(TINY | dict(weights=weights, seed=3))
    for name, depth in (("kernel_error", 3), ("kernel_error_other", 6)):
        limit = infinite.fully_connected(x, None, depth, "erf", False)[1]
        assert last(found, name) == pytest.approx(kernels.distance(kernel, limit).item())


def test_distance_to_the_limits_of_convolutions():
    given = dict(dataset="mnist", network="conv", n=3, width=4, activation="relu")
    found = run(*(given | dict(weights=w, delta=True) for w in ("gaussian", "orthogonal")))
    assert all(last(f, "kernel_error") > 0 for f in found)
    wide = run(given | dict(width=128, delta=True))[0]
    assert last(wide, "kernel_error") < last(wide, "kernel_error_other") / 3


def test_training_is_gradient_descent_on_the_centred_network():
    c = Orthogonal(**FULL)
    data, module = orthogonal.task(c, "cpu"), models.MLP(64, 16, 3, activation="erf", bias=False)
    assert data.y.abs().eq(1).all() and data.y.dim() == 1
    params0 = models.initialise(module, 0)
    params = {k: v.clone().requires_grad_() for k, v in params0.items()}
    f0 = functional_call(module, params0, (data.x,))
    top = torch.linalg.eigvalsh(infinite.fully_connected(data.x, None, 3, "erf", False)[1])[-1]
    (found,) = run(FULL)
    losses = dict(found["loss"])
    for step in range(int(last(found, "steps")) + 1):
        output = functional_call(module, params, (data.x,)) - f0
        loss = (output[:, 0] - data.y).square().mean() / 2
        if step in losses:
            assert losses[step] == pytest.approx(loss.item(), rel=1e-9)
        slopes = torch.autograd.grad(loss, list(params.values()))
        end = params
        params = {k: (v - 0.3 * c.n / top * g).detach().requires_grad_()
                  for (k, v), g in zip(params.items(), slopes, strict=True)}  # fmt: skip
    assert loss < 0.25 and last(found, "converged") == 1
    middle = ("hidden.1.weight", "hidden.2.weight")
    change, size = (math.sqrt(sum(v.square().sum().item() for v in part)) for part in (
        [end[k].detach() - params0[k] for k in middle], [params0[k] for k in middle]))  # fmt: skip
    assert last(found, "moved_middle") == pytest.approx(change / size)


def test_infinite_width_takes_the_steps_of_its_kernel():
    kernel = torch.tensor([[2.0, 0.3], [0.3, 0.5]]).double()
    y, f, rate = torch.tensor([1.0, -1.0]).double(), torch.zeros(2).double(), 0.2
    values, vectors = torch.linalg.eigh(kernel)
    taken = 0
    while (f - y).square().mean() >= 0.3:
        f, taken = f - rate * kernel @ (f - y), taken + 1
    given = rate * values, (vectors.mT @ y).square()
    assert orthogonal.steps_of_limit(*given, 0.3, 100) == taken > 2
    assert orthogonal.steps_of_limit(*given, 0.3, 2) == math.inf


def steps_by_hand(f, params, x, y):
    """SGD of rate 0.3 on f(params, x) in batches of 20, by seed 2, to an accuracy of 0.6."""
    params = {k: v.clone().requires_grad_() for k, v in params.items()}
    batches = orthogonal.epochs(60, 20, torch.Generator().manual_seed(2))
    for taken, rows in enumerate(batches):
        output, wanted = f(params, x[rows]), y[rows].argmax(1)
        if (output.argmax(1) == wanted).double().mean() > 0.6:
            return taken
        loss = torch.nn.functional.cross_entropy(output, wanted)
        slopes = torch.autograd.grad(loss, list(params.values()))
        params = {k: (v - 0.3 * g).detach().requires_grad_()
                  for (k, v), g in zip(params.items(), slopes, strict=True)}  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
def test_sgd_takes_the_batches_of_its_seed_until_the_goal(frozen):
    """On the network, or on its linearisation."""
    given = SGD | dict(seed=2, goal=0.6, frozen=frozen)
    c = Orthogonal(**given | dict(rate=0.3))
    data = orthogonal.task(c, "cpu")
    module = models.MLP(64, 16, 2, 10, "tanh", layer=models.Unscaled)
    params0 = orthogonal.start(c, module, "cpu")
    f = linearise(module, params0) if frozen else models.apply(module)
    taken = steps_by_hand(f, params0, data.x, data.y)
    slow, found = run(given | dict(rate=0.03), given | dict(rate=0.3))
    assert last(found, "steps") == taken > 1 and last(slow, "steps") > taken
    assert ("kernel_change" in found) != frozen


def test_a_training_that_is_not_there_in_time_or_diverges_has_no_steps():
    late, lost = run(*(SGD | dict(rate=rate, max_steps=3, goal=0.9) for rate in (1e-3, 1e9)))
    assert late["steps"] == [(3, math.inf)] and last(late, "converged") == 0
    assert "kernel_change" not in late
    assert lost["steps"][0][1] == math.inf


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_weights_and_biases_have_their_variances(weights):
    c = Orthogonal(**SGD | dict(weights=weights, width=200, depth=2, variance=2.0))
    params = orthogonal.start(c, models.MLP(64, 200, 2, 10, "tanh", layer=models.Unscaled), "cpu")
    w, biases = params["hidden.1.weight"], [v for k, v in params.items() if k.endswith("bias")]
    assert w.square().mean().item() == pytest.approx(2 / 200, rel=0.05)
    assert torch.cat(biases).square().mean().item() == pytest.approx(0.1038, rel=0.2)
    if weights == "orthogonal":
        close(w @ w.mT, 2 * torch.eye(200).double())
    again = Orthogonal(**SGD | dict(weights="again", width=200))
    module = models.MLP(64, 200, 2, 10, "tanh", layer=models.Unscaled)
    assert not torch.equal(orthogonal.start(again, module, "cpu")["hidden.1.weight"], w)


def test_critical_biases():
    """The paper's pair, 1.05 and 2.01e-5; and that slopes keep their size there."""
    assert orthogonal.critical_bias(1.05, "tanh") == pytest.approx(2.01e-5, rel=1e-3)
    assert orthogonal.critical_bias(1.0, "linear") == orthogonal.critical_bias(0.9, "tanh") == 0
    q, bias = 1.0, orthogonal.critical_bias(1.5, "tanh")
    z = torch.linspace(-9, 9, 4001).double()
    weight = (-z * z / 2).exp()
    weight /= weight.sum()
    for _ in range(3000):
        q = 1.5 * (weight * torch.tanh(math.sqrt(q) * z).square()).sum().item() + bias
    slope = 1 - torch.tanh(math.sqrt(q) * z).square()
    assert 1.5 * (weight * slope.square()).sum().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("given, message", [
    (dict(network="conv", train="full", max_steps=9), "measured at the start alone"),
    (dict(network="conv", dataset="digits"), "on larger images"),
    (dict(activation="tanh"), "a limit is known for activation='erf' or 'relu', got 'tanh'"),
    (dict(max_steps=9), "max_steps must be at least 1 where a network is trained, else 0"),
    (dict(train="full"), "max_steps must be at least 1 where a network is trained, else 0"),
    (SGD | dict(batch=61), "a batch of 1 to n = 60, got 61"),
    (dict(variance=2.0), "variance needs train='sgd'"),
    (dict(goal=1.0), "goal must be below 1"),
])  # fmt: skip
def test_configs_that_cannot_be_run_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Orthogonal, given)
