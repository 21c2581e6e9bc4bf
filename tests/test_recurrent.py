"""The recurrent kernel against a recursion over single pairs, finite networks, and its limits."""

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from tangents import models, recurrent
from tangents.empirical import ntk
from tangents.functional import select
from tangents.infinite import fully_connected
from tangents.recurrent import Recurrent, backwards
from tests.cases import close, normal
from tests.test_infinite import expectations

ONE = Recurrent(1, "relu", sw=1.3, su=0.9, sb=0.3, sh=0.5, sv=1.2)
TWO = Recurrent(2, "relu", sw=1.4, su=1.1, sb=0.2, sh=0.7, sv=0.8)
ERF = Recurrent(2, "erf", sw=1.3, su=0.9, sb=0.3, sh=0.5, sv=1.2)
NETS = [
    ONE, TWO, ERF,
    replace(ONE, readout="steps"), replace(TWO, readout="mean"), replace(ERF, readout="steps"),
    replace(TWO, frozen=1), replace(TWO, frozen=2, readout="steps"),
    replace(ERF, frozen=1, readout="mean"),
]  # fmt: skip


def means(net, q, r, k):
    mean, slope = expectations(net.activation, q, r, k)
    return (mean, slope) if net.activation == "erf" else (mean / 2, slope / 2)


def pair(net, x, y, same):
    """One pair of sequences (t, m) and (u, m): all pairs of their steps by the recursion written
    out, then the pairs that are read."""
    own = [variances(net, z) for z in (x, y)]
    S, theta = {}, {}

    def passed(*at):
        layer, t, u = at
        mean, slope = means(net, own[0][layer, t], own[1][layer, u], S[at])
        return mean, slope * theta[at]

    for t, u, layer in product(range(len(x)), range(len(y)), range(net.layers)):
        begin = (same and t == u == 0) * net.sh**2, 0.0
        rec, turned = passed(layer, t - 1, u - 1) if t and u else begin
        inp, entered = passed(layer - 1, t, u) if layer else (float(x[t] @ y[u]) / x.shape[1], 0.0)
        S[layer, t, u] = net.sw**2 * rec + net.su**2 * inp + net.sb**2
        trained = S[layer, t, u] + net.sw**2 * turned + net.su**2 * entered
        theta[layer, t, u] = trained if layer >= net.frozen else 0.0
    last = len(x) - 1, len(y) - 1
    read, share = {
        "last": ([last], 1),
        "steps": ([(last[0] - k, last[1] - k) for k in range(min(last) + 1)],
                  math.sqrt(len(x) * len(y))),
        "mean": (product(range(len(x)), range(len(y))), len(x) * len(y)),
    }[net.readout]  # fmt: skip
    found = np.array([passed(net.layers - 1, t, u) for t, u in read]).sum(0) * net.sv**2 / share
    return found[0], found.sum()


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


def output(net, params, x, start):
    """Of a finite network, on one sequence."""
    states, width, read = list(start), start.shape[1], 0.0
    for step, below in enumerate(x):
        for layer in range(net.layers):
            w, u, b = (params[f"{name}{layer}"] for name in "wub")
            again, new = w @ states[layer] / width**0.5, u @ below / len(below) ** 0.5
            z = net.sw * again + net.su * new + net.sb * b
            states[layer] = below = torch.relu(z) if net.activation == "relu" else torch.erf(z)
        from_end = len(x) - 1 - step
        v = params["v"][from_end if net.readout == "steps" else 0]
        read = v @ below + (0.0 if net.readout == "last" else read)
    share = {"last": 1, "steps": len(x) ** 0.5, "mean": len(x)}[net.readout]
    return net.sv / width**0.5 / share * read


def finite(net, width, sequences, seeds):
    """The kernels of finite networks, by gradients through time of what is trained."""
    draws = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        randn = partial(torch.randn, generator=generator, dtype=torch.float64)
        params = {"v": randn(len(max(sequences, key=len)), width)}
        for layer in range(net.layers):
            fan = width if layer else sequences[0].shape[1]
            params |= {f"w{layer}": randn(width, width), f"u{layer}": randn(width, fan),
                       f"b{layer}": randn(width)}  # fmt: skip
        trained = [n for n in params if n == "v" or int(n[1:]) >= net.frozen]
        rows = []
        for x in sequences:
            grads = jacrev(partial(output, net))(params, x, net.sh * randn(net.layers, width))
            rows.append(torch.cat([grads[name].flatten() for name in trained]))
        rows = torch.stack(rows)
        draws.append(rows @ rows.T)
    return torch.stack(draws)


@pytest.mark.parametrize("net", NETS)
def test_wide_networks_have_the_kernel_of_infinite_width(net):
    x, lengths = normal(3, 4, 2), torch.tensor([4, 4, 3])
    want = net.kernels(x, lengths1=lengths)[1]
    single = [z[:length] for z, length in zip(x, lengths, strict=True)]
    draws = finite(net, 128, single, range(32))
    error = (draws.mean(0) - want) / (draws.std(0) / 32**0.5)
    assert error.abs().max() < 6  # the bias is of order 1 / width
    assert ((draws.mean(0) - want).abs() / want).max() < 0.25


@pytest.mark.parametrize("net", [replace(ONE, readout="steps"), replace(TWO, readout="mean")])
def test_their_error_falls_with_the_width_also_where_both_directions_are_read(net):
    x = normal(3, 3, 2)
    want = net.bidirectional(x)[1]

    def error(width):
        there, back = (finite(net, width, z, range(k, k + 8)) for z, k in ((x, 0), (x.flip(1), 8)))
        return ((there + back - want).square().sum((1, 2)).sqrt() / want.norm()).mean()

    assert error(384) < error(24) / 2.5  # a quarter, as 1 / sqrt width


def test_both_directions_are_those_of_each_sequence_alone():
    x, y, lengths = normal(3, 4, 2), normal(2, 3, 2, seed=1), torch.tensor([2, 4, 3])
    turned = x.clone()
    for z, length in zip(turned, lengths, strict=True):
        z[:length] = z[:length].flip(0)
    assert torch.equal(backwards(x, lengths), turned) and torch.equal(backwards(y), y.flip(1))
    for net in (TWO, replace(ERF, readout="steps")):
        for other, back in ((None, None), (y, y.flip(1))):
            parts = net.kernels(x, other, lengths), net.kernels(turned, back, lengths)
            for got, *each in zip(net.bidirectional(x, other, lengths), *parts, strict=True):
                close(got, sum(each))


def test_where_all_is_frozen_the_read_out_alone_is_trained():
    x = normal(4, 3, 2)
    for readout in recurrent.READOUTS:
        nngp, found = replace(TWO, frozen=2, readout=readout).kernels(x)
        close(found, nngp)
        close(nngp, replace(TWO, readout=readout).kernels(x)[0])


def test_of_one_step_all_read_outs_are_one():
    x = normal(4, 1, 3)
    for readout in ("steps", "mean"):
        close(replace(TWO, readout=readout).kernels(x)[1], TWO.kernels(x)[1])


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
    (dict(readout="first"), "readout must be one of last, steps, mean, got 'first'"),
    (dict(frozen=2), "frozen must be from 0 to 1, got 2"),
    (dict(layers=0), "layers must be a whole number, at least 1, got 0"),
    (dict(sw=-1.0), "sw must be finite and at least 0, got -1"),
    (dict(sb=math.inf), "sb must be finite and at least 0, got inf"),
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
