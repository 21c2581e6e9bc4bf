"""Passes written out, against automatic differentiation network by network."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, vjp

from tangents import models
from tangents.chain import Chain
from tangents.functional import select
from tangents.train import Problem
from tests.cases import all_close, close, normal, points_close


class Plain(models.Linear):
    """In the usual parametrisation."""

    scale = 1.0


class Other(models.Linear):
    """Another map."""

    def forward(self, x):
        return 2 * super().forward(x)


def sequence(kind=models.Linear, bias=True, c=2):
    return nn.Sequential(kind(3, 5, bias), nn.ReLU(), kind(5, 4, bias), nn.ReLU(), kind(4, c, bias))


CHAINS = {
    "mlp": models.MLP(3, 6, 2, activation="relu"),
    "three outputs, no biases": models.MLP(3, 6, 3, c=3, activation="relu", bias=False),
    "bottleneck": models.MLP(3, 6, 3, c=2, activation="relu", bottleneck=1),
    "sequence": sequence(Plain),
    "sequence, no biases": sequence(bias=False),
    "one layer": nn.Sequential(models.Linear(3, 2)),
}


def changed(change):
    """A chain, but for one change."""
    module = models.MLP(3, 6, 2, activation="relu")
    change(module)
    return module


def replaced(module):
    module.hidden[1] = Other(6, 6)


def tied(module):
    module.hidden.append(module.hidden[1])


def buffered(module):
    weight = module.readout.weight.detach()
    del module.readout.weight
    module.readout.register_buffer("weight", weight)


first, second = models.Linear(4, 4), models.Linear(4, 4)
second.weight = first.weight
OTHERS = {
    "softplus": models.MLP(3, 6, 2),
    "residual": models.ResNet(3, 6, 2, activation="relu"),
    "images": models.ConvNet(1, 2),
    "another map": sequence(Other),
    "torch's layers, which take no stack": sequence(nn.Linear),
    "a ReLU last": sequence()[:-1],
    "another activation": nn.Sequential(models.Linear(3, 2), nn.Tanh(), models.Linear(2, 1)),
    "a layer twice": nn.Sequential(first, nn.ReLU(), first),
    "a weight twice": nn.Sequential(first, nn.ReLU(), second),
    "a layer of an MLP replaced": changed(replaced),
    "a layer of an MLP twice": changed(tied),
    "a read-out that is not trained": changed(buffered),
    "a hook": changed(lambda m: m.hidden[0].register_forward_hook(lambda *call: None)),
    "a parametrised weight": changed(
        lambda m: nn.utils.parametrizations.orthogonal(m.hidden[1], "weight")
    ),
    "a parameter more": changed(
        lambda m: m.readout.register_parameter("idle", nn.Parameter(torch.zeros(2)))
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_what_automatic_differentiation_finds(name, dtype):
    module, x = CHAINS[name], normal(7, 3).to(dtype)
    params = models.initialise_stack(module, [0, 1, 2], dtype)
    params = {k: v + 0.1 * normal(*v.shape, seed=1).to(dtype) for k, v in params.items()}
    before = {k: v.clone() for k, v in params.items()}
    f, pull = Chain.of(module, params)(params, x)
    assert f.equal(functional_call(module, params, (x,)))
    u = normal(*f.shape, seed=2).to(dtype)
    given = u.clone()
    found = pull(u)
    assert u.equal(given)
    assert list(found) == list(params)
    for i in range(3):
        want, back = vjp(lambda p: functional_call(module, p, (x,)), select(params, i))
        close(f[i], want)
        all_close(select(found, i), back(u[i])[0])
    assert all(params[k].equal(v) for k, v in before.items())


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_left_to_automatic_differentiation(name):
    module = OTHERS[name]
    assert Chain.of(module, dict(module.named_parameters())) is None


@pytest.mark.parametrize("loss", ["square", "soft_hinge"])
def test_training_is_the_same_by_the_chain(loss):
    module = models.MLP(3, 6, 2, activation="relu")
    start, params = (models.initialise_stack(module, seeds) for seeds in ([0, 1], [2, 3]))
    x = normal(6, 3)
    problem = Problem.start(module, start, x, x[:, 0].sign(), torch.ones(2).double(), loss)
    assert problem.chain
    assert all((problem.at(start, factored).output == 0).all() for factored in (True, False))
    got, want = (p.at(params, False) for p in (problem, replace(problem, chain=None)))
    points_close(got, want)
