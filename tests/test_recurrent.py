"""The recurrent kernel against a recursion over single pairs, finite networks, and its limits."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from tangents import models, recurrent
from tangents.empirical import ntk
from tangents.functional import select
from tangents.infinite import fully_connected
from tangents.recurrent import Recurrent
from tests.cases import close, normal
from tests.test_infinite import expectations

NETS = [
    Recurrent(1, "relu", sw=1.3, su=0.9, sb=0.3, sh=0.5, sv=1.2),
    Recurrent(2, "relu", sw=1.4, su=1.1, sb=0.2, sh=0.7, sv=0.8),
    Recurrent(2, "erf", sw=1.3, su=0.9, sb=0.3, sh=0.5, sv=1.2),
]


def means(net, q, r, k):
    mean, slope = expectations(net.activation, q, r, k)
    return (mean, slope) if net.activation == "erf" else (mean / 2, slope / 2)


def pair(net, x, y, same):
    """One pair of sequences (t, m) and (u, m), from their ends, by the recursion written out."""
    if len(x) > len(y):
        return pair(net, y, x, same)
    tau, m = len(y) - len(x), x.shape[1]
    own = [variances(net, z) for z in (x, y)]
    S, theta = {}, {}
    for t in range(len(x)):
        for layer in range(net.layers):
            if t:
                args = own[0][layer, t - 1], own[1][layer, t - 1 + tau], S[layer, t - 1]
                mean, slope = means(net, *args)
                rec, turned = net.sw**2 * mean, net.sw**2 * slope * theta[layer, t - 1]
            else:
                rec, turned = net.sw**2 * net.sh**2 * (same and tau == 0), 0.0
            if layer:
                mean, slope = means(net, own[0][layer - 1, t], own[1][layer - 1, t + tau],
                                    S[layer - 1, t])  # fmt: skip
                inp, passed = net.su**2 * mean, net.su**2 * slope * theta[layer - 1, t]
            else:
                inp, passed = net.su**2 * float(x[t] @ y[t + tau]) / m, 0.0
            S[layer, t] = rec + inp + net.sb**2
            theta[layer, t] = S[layer, t] + turned + passed
    last = net.layers - 1, len(x) - 1
    mean, slope = means(net, own[0][last], own[1][last[0], len(y) - 1], S[last])
    return net.sv**2 * mean, net.sv**2 * (mean + slope * theta[last])


def variances(net, x):
    found = {}
    for t in range(len(x)):
        for layer in range(net.layers):
            q = found[layer, t - 1] if t else None
            rec = means(net, q, q, q)[0] if t else net.sh**2
            p = found[layer - 1, t] if layer else None
            inp = means(net, p, p, p)[0] if layer else float(x[t] @ x[t]) / x.shape[1]
            found[layer, t] = net.sw**2 * rec + net.su**2 * inp + net.sb**2
    return found


@pytest.mark.parametrize("net", NETS)
def test_all_pairs_at_once_are_the_pairs_one_by_one(net, monkeypatch):
    monkeypatch.setattr(recurrent, "TILE", 2)
    x, lengths = normal(4, 5, 3), torch.tensor([5, 3, 3, 2])
    single = [z[:length] for z, length in zip(x, lengths, strict=True)]
    want = torch.tensor([[pair(net, a, b, i == j) for j, b in enumerate(single)]
                         for i, a in enumerate(single)]).double()  # fmt: skip
    for got, expected in zip(net.kernels(x, lengths1=lengths), want.unbind(-1), strict=True):
        close(got, expected, times=1e4, order=0.5)
    y = normal(2, 4, 3, seed=1)
    want = torch.tensor([[pair(net, a, b, False) for b in y] for a in single]).double()
    for got, expected in zip(net.kernels(x, y, lengths), want.unbind(-1), strict=True):
        close(got, expected, times=1e4, order=0.5)


def test_padding_does_not_count():
    net, x, lengths = NETS[1], normal(3, 4, 2), torch.tensor([2, 4, 3])
    padded = torch.cat([x, 9 + torch.zeros(3, 2, 2).double()], 1)
    for got, expected in zip(net.kernels(padded, lengths1=lengths),
                             net.kernels(x, lengths1=lengths), strict=True):  # fmt: skip
        close(got, expected)


def test_one_step_is_a_fully_connected_network():
    x = normal(5, 1, 4)
    found = Recurrent(3, "relu", sw=0.0, su=math.sqrt(2), sv=math.sqrt(2)).kernels(x)
    want = fully_connected(x[:, 0], None, 3, "relu", False)
    for got, expected in zip(found, want, strict=True):
        close(got, 2 * expected, times=1e3, order=0.5)  # the first layer has the gain, too


@pytest.mark.parametrize("net", NETS)
def test_wide_networks_have_the_kernel_of_infinite_width(net):
    """Gradients through time by automatic differentiation."""
    width, x = 128, normal(3, 4, 2)
    act = torch.relu if net.activation == "relu" else torch.erf

    def output(params, x, start):
        states = [start[layer] for layer in range(net.layers)]
        for entered in x:
            below, fan = entered, x.shape[1]
            for layer in range(net.layers):
                w, u, b = (params[f"{name}{layer}"] for name in "wub")
                again, new = w @ states[layer] / width**0.5, u @ below / fan**0.5
                states[layer] = below = act(net.sw * again + net.su * new + net.sb * b)
                fan = width
        return net.sv / width**0.5 * params["v"] @ states[-1]

    draws = []
    for seed in range(32):
        generator = torch.Generator().manual_seed(seed)
        randn = partial(torch.randn, generator=generator, dtype=torch.float64)
        params = {"v": randn(width)}
        for layer in range(net.layers):
            params |= {f"w{layer}": randn(width, width), f"b{layer}": randn(width),
                       f"u{layer}": randn(width, width if layer else 2)}  # fmt: skip
        start = net.sh * randn(3, net.layers, width)
        rows = vmap(jacrev(output), (None, 0, 0))(params, x, start)
        draws.append(sum(r.flatten(1) @ r.flatten(1).T for r in rows.values()))
    draws = torch.stack(draws)
    want = net.kernels(x)[1]
    error = (draws.mean(0) - want) / (draws.std(0) / 32**0.5)
    assert error.abs().max() < 6  # the bias is of order 1 / width
    assert ((draws.mean(0) - want).abs() / want).max() < 0.25


@pytest.mark.parametrize("layers, activation", [(1, "relu"), (2, "erf")])
def test_recurrent_networks_have_it_too_with_sequences_of_unequal_length(layers, activation):
    scales = dict(sw=1.3, su=0.9, sb=0.3, sv=1.2)
    module = models.RNN(2, 64, layers, activation=activation, **scales)
    x, lengths = normal(3, 5, 2), torch.tensor([5, 3, 2])
    there = torch.arange(5) >= 5 - lengths[:, None]
    aligned = torch.stack([z.roll(5 - int(k), 0) for z, k in zip(x, lengths, strict=True)])
    given = torch.cat([aligned, there[..., None]], -1)
    params = models.initialise_stack(module, list(range(64)))
    found = ntk(module, params, given)[..., 0, 0]
    rows = jacrev(lambda p: functional_call(module, p, (given,)))(select(params, 0))
    close(found[0], sum(r.flatten(2)[:, 0] @ r.flatten(2)[:, 0].mT for r in rows.values()), 1e3)
    _, want = Recurrent(layers, activation, **scales).kernels(x, lengths1=lengths)
    error = (found.mean(0) - want) / (found.std(0) / 8)
    assert error.abs().max() < 6
    alone = functional_call(module, select(params, 0), (given[1:2, 2:],))
    close(functional_call(module, select(params, 0), (given,))[1:2], alone)


def test_kernels_are_positive():
    x = normal(12, 6, 2)
    for net in NETS:
        for kernel in net.kernels(x, lengths1=torch.arange(12) % 6 + 1):
            assert np.linalg.eigvalsh(kernel.numpy()).min() > 0


@pytest.mark.parametrize("given, message", [
    (dict(activation="tanh"), "activation must be one of relu, erf, got 'tanh'"),
    (dict(layers=0), "layers must be at least 1"), (dict(sw=-1.0), "finite, got sw=-1.0"),
    (dict(sb=math.inf, sv=math.nan), "finite, got sb=inf, sv=nan"),
])  # fmt: skip
def test_networks_that_are_none_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Recurrent(**given)


def test_sequences_that_are_none_are_refused():
    x = normal(3, 4, 2)
    with pytest.raises(ValueError, match=r"must be \(n, t, m\) of one m, got"):
        Recurrent().kernels(x, normal(3, 4, 1))
    for lengths in ([0, 1, 2], [1, 2, 5], [1, 2]):
        with pytest.raises(ValueError, match="a number from 1 to 4 for each of 3 sequences"):
            Recurrent().kernels(x, lengths1=torch.tensor(lengths))
    with pytest.raises(ValueError, match="finite, padding too"):
        Recurrent().kernels(x / 0)
