"""Measurements against their definitions and finite differences."""

import math

import pytest
import torch
from torch.func import functional_call

from tangents import models, probes
from tangents.functional import axpy, select, stack
from tests.cases import CASES, close, like, name, normal


def test_error_rate_counts_wrong_signs():
    y = torch.tensor([1.0, -1, 1, -1])
    output = torch.tensor([[0.1, -5, 2, -1e-9], [1, 1, 1, 1], [0, 0, -1, 1]])
    assert probes.error_rate(output, y).tolist() == [0, 0.5, 1]
    assert probes.error_rate(output[1], y) == 0.5


def test_an_output_that_is_not_a_number_is_wrong():
    y = torch.tensor([1.0, -1])
    assert probes.error_rate(torch.tensor([math.nan, -1]), y) == 0.5


def test_rms():
    x = torch.tensor([[3.0, 4], [0, 0]])
    assert probes.rms(x).tolist() == pytest.approx([math.sqrt(12.5), 0])


HIDDEN = [case for case in CASES if hasattr(case.module, "hidden")]


def preactivations(module, params, x):
    """One vector of all of them, layer after layer written out again."""
    scale = [1 / math.sqrt(math.prod(layer.weight.shape[1:])) for layer in module.hidden]
    out = []
    for i, layer in enumerate(module.hidden):
        weight, bias = params[f"hidden.{i}.weight"], params.get(f"hidden.{i}.bias")
        if weight.dim() == 2:
            z = torch.nn.functional.linear(x, weight * scale[i], bias)
        else:
            z = torch.nn.functional.conv2d(x, weight * scale[i], bias, layer.stride, layer.padding)
        out.append(z)
        residual = isinstance(module, models.ResNet) and i > 0
        x = module.activation(z) + (x if residual else 0)
    return out


@pytest.mark.parametrize("case", HIDDEN, ids=name)
def test_preactivation_velocity_is_a_finite_difference(case):
    networks, x = [case.params(0), case.params(1)], case.x(3)
    params = stack(networks)
    v = like(params, seed=9)
    got = probes.preactivation_velocity(case.module, params, x, v)
    h = torch.tensor([1e-5])
    for i, one in enumerate(networks):
        single = {k: t[None] for k, t in one.items()}
        along = {k: t[None] for k, t in select(v, i).items()}
        ahead, behind = (select(axpy(s * h, along, single), 0) for s in (1, -1))
        zs = zip(*(preactivations(case.module, p, x) for p in (ahead, behind)), strict=True)
        speed = torch.stack([((a - b) / 2e-5).square().mean() for a, b in zs]).mean().sqrt()
        close(got[i], speed, times=100, order=0.5)


@pytest.mark.parametrize("module", [models.MLP(3, 4, 2), models.ResNet(3, 4, 2)])
def test_unit_gradients_are_those_of_what_follows(module):
    params, x, h = models.initialise_stack(module, [0, 1]), normal(5, 3), 1e-6
    got = probes.unit_gradients(module, params, x)
    assert [g.shape for g in got] == [(2, 5, 4)] * 2
    close(got[-1], params["readout.weight"].expand(2, 5, 4) / 2)
    first, second = module.hidden
    a = module.activation(functional_call(first, _of(params, "hidden.0"), (x,)))

    def rest(a):
        z = module.activation(functional_call(second, _of(params, "hidden.1"), (a,)))
        z = z + (a if isinstance(module, models.ResNet) else 0)
        return functional_call(module.readout, _of(params, "readout"), (z,))[..., 0]

    for unit in range(4):
        step = h * torch.eye(4).double()[unit]
        want = (rest(a + step) - rest(a - step)) / (2 * h)
        close(got[0][..., unit], want, times=100, order=0.5)


def _of(params, layer):
    return {k.rpartition(".")[2]: v for k, v in params.items() if k.startswith(layer)}


def test_probes_leave_no_hooks():
    module = models.MLP(3, 4, 2)
    params = models.initialise_stack(module, [0])
    probes.preactivation_velocity(module, params, normal(2, 3), params)
    probes.unit_gradients(module, params, normal(2, 3))
    for layer in module.modules():
        assert not layer._forward_hooks and not layer._forward_pre_hooks
    assert functional_call(module, params, (normal(2, 3),)).shape == (1, 2, 1)


def test_singular_values_of_states_are_those_of_the_product():
    module = models.MLP(3, 5, 4, activation="tanh", layer=models.Unscaled)
    params, x = models.initialise_stack(module, [0, 1]), normal(2, 3)
    found = probes.state_singular_values(module, params, x)
    assert found.shape == (2, 2, 5)
    for i, j in ((0, 0), (1, 1)):
        w = {k: v[i] for k, v in params.items()}
        a, J = x[j], torch.eye(5).double()
        for layer in range(4):
            z = w[f"hidden.{layer}.weight"] @ a + w[f"hidden.{layer}.bias"]
            a = torch.tanh(z)
            if layer:
                J = (1 - a**2)[:, None] * w[f"hidden.{layer}.weight"] @ J
        close(found[i, j], torch.linalg.svdvals(J), times=100)


def test_an_orthogonal_linear_network_is_an_isometry():
    module = models.MLP(3, 8, 20, activation="linear", bias=False)
    params = models.initialise_stack(module, [0], draw=models.orthogonal)
    close(probes.state_singular_values(module, params, normal(1, 3)), torch.ones(1, 1, 8).double())


def test_misclassified_is_a_share_of_each_network():
    y = torch.eye(3).double()[[0, 1, 2, 0]]
    wrong = y[[1, 1, 2, 0]]
    assert probes.misclassified(torch.stack([y, 7 * wrong - 9, -y]), y).tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("case", HIDDEN, ids=name)
def test_patterns_are_the_signs_of_preactivations(case):
    networks, x = [case.params(0), case.params(1)], case.x(3)
    found = probes.patterns(case.module, stack(networks), x)
    for got, one in zip(found, networks, strict=True):
        signs = [(z > 0).flatten(1) for z in preactivations(case.module, one, x)]
        assert got.equal(torch.cat(signs, 1))
    distance = sum(int(a != b) for a, b in zip(*found.flatten(1).tolist(), strict=True))
    assert probes.pattern_distance(*found).item() == pytest.approx(distance / found[0].numel())
    assert probes.pattern_distance(found, found).tolist() == [0, 0]


def test_a_barrier_is_the_height_between_two_ends():
    """Of R(w) = 1 - |w|^2 from e_1 to e_2 that of the middle, 1/2; of a valley that of its ends."""
    e = torch.eye(2).double()
    ends = [{"w": e[[0, 0]]}, {"w": e[[1, 0]]}]

    def hill(p):
        return 1 - p["w"].square().sum(-1)

    close(probes.barrier(hill, *ends), torch.tensor([0.5, 0]).double())
    assert probes.barrier(hill, *ends, points=2)[0].item() == pytest.approx(4 / 9)
    tilted = probes.barrier(lambda p: p["w"].square().sum(-1) + p["w"][:, 0], *ends)
    close(tilted, torch.tensor([0.5, 0]).double())
    with pytest.raises(ValueError, match="points must be a whole number, at least 1, got 0"):
        probes.barrier(hill, *ends, points=0)
