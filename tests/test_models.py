"""Networks against formulas written out in numpy, and the constants of the parametrisation."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from tangents import models
from tangents.functional import select
from tests.cases import STACKS, close, name, normal


def second_moment(activation):
    """E[sigma(z)^2] for a standard normal z, by Gauss-Hermite quadrature."""
    z, weight = np.polynomial.hermite_e.hermegauss(300)
    value = activation(torch.from_numpy(z)).numpy()
    return (weight * value**2).sum() / math.sqrt(2 * math.pi)


def test_softplus_has_unit_second_moment():
    z, weight = np.polynomial.hermite_e.hermegauss(300)
    plain = np.logaddexp(0, 5 * z) / 5
    gain = ((weight * plain**2).sum() / math.sqrt(2 * math.pi)) ** -0.5
    assert gain == pytest.approx(models.SOFTPLUS_GAIN, abs=5e-6)  # half its last digit
    assert second_moment(models.softplus) == pytest.approx(1, abs=1e-5)


def test_relu_has_unit_second_moment():
    assert second_moment(models.relu) == pytest.approx(1, abs=1e-12)  # even by symmetry


SIGMA = {
    "softplus": lambda z: 1.40438 / 5 * np.logaddexp(0, 5 * z),
    "relu": lambda z: math.sqrt(2) * np.maximum(z, 0),
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "linear": lambda z: z,
}


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_is_the_formula(activation, depth, bias):
    d, h, n = 4, 6, 5
    module = models.MLP(d, h, depth, c=2, activation=activation, bias=bias)
    params = {k: normal(*p.shape, seed=i) for i, (k, p) in enumerate(module.named_parameters())}
    x = normal(n, d, seed=99)
    w = {k: v.numpy() for k, v in params.items()}
    a = x.numpy()
    for layer in range(depth):
        z = a @ w[f"hidden.{layer}.weight"].T / math.sqrt(a.shape[1])
        a = SIGMA[activation](z + w.get(f"hidden.{layer}.bias", 0.0))
    f = a @ w["readout.weight"].T / math.sqrt(h) + w.get("readout.bias", 0.0)
    # torch's softplus is cut off above 20 / beta, an error of 4e-10
    close(functional_call(module, params, (x,)), torch.from_numpy(f), order=0.5, times=1)


def test_a_bottleneck_is_the_middle_layer():
    sizes = lambda net: [layer.out_features for layer in net.hidden]  # noqa: E731
    assert sizes(models.MLP(3, 7, 3, bottleneck=2)) == [7, 2, 7]
    assert sizes(models.MLP(3, 7, 1, bottleneck=2)) == [2]
    assert sizes(models.MLP(3, 7, 4, bottleneck=2)) == [7, 2, 7, 7]
    with pytest.raises(ValueError, match="bottleneck must be a whole number, at least 0, got -1"):
        models.MLP(3, 7, 3, bottleneck=-1)


def test_resnet_is_the_formula():
    module = models.ResNet(4, 6, 3, c=2, activation="tanh")
    params = {k: normal(*p.shape, seed=i) for i, (k, p) in enumerate(module.named_parameters())}
    x = normal(5, 4, seed=99)
    w = {k: v.numpy() for k, v in params.items()}
    a = np.tanh(x.numpy() @ w["hidden.0.weight"].T / 2 + w["hidden.0.bias"])
    for layer in (1, 2):
        z = a @ w[f"hidden.{layer}.weight"].T / math.sqrt(6) + w[f"hidden.{layer}.bias"]
        a = a + np.tanh(z)
    f = a @ w["readout.weight"].T / math.sqrt(6) + w["readout.bias"]
    close(functional_call(module, params, (x,)), torch.from_numpy(f))


HEADS = {
    "linear": lambda z: z[:, :1],
    "tanh": lambda z: np.tanh(z[:, :1]),
    "sigmoid": lambda z: scipy.special.expit(z[:, :1]),
    "swish": lambda z: z[:, :1] * scipy.special.expit(z[:, :1]),
    "softmax": lambda z: np.tanh((z[:, 1:] - z[:, :1]) / 2),
}


@pytest.mark.parametrize("head", models.HEADS)
def test_heads_are_their_formulas(head):
    net = models.MLP(3, 4, 1, c=2 if head == "softmax" else 1)
    module = models.Headed(net, head)
    params, x = models.initialise(module, 0), normal(5, 3)
    inside = {k.removeprefix("net."): v for k, v in params.items()}
    z = functional_call(net, inside, (x,)).numpy()
    close(functional_call(module, params, (x,)), torch.from_numpy(HEADS[head](z)))


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head 'relu' is unknown; accepted: linear, tanh"):
        models.Headed(models.MLP(3, 4, 1), "relu")


def test_convolution_is_the_sum_over_windows():
    layer = models.Conv2d(2, 3, 3, stride=2, padding=1)
    w, b, x = normal(3, 2, 3, 3), normal(3, seed=1), normal(4, 2, 5, 7, seed=2)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    want = np.empty((4, 3, 3, 4))
    for i in range(3):
        for j in range(4):
            window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            want[:, :, i, j] = np.tensordot(window, w.numpy(), ((1, 2, 3), (1, 2, 3)))
    got = functional_call(layer, {"weight": w, "bias": b}, (x,))
    close(got, torch.from_numpy(want / math.sqrt(18)) + b[:, None, None])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_convolution_by_blocks_of_examples_is_the_whole(monkeypatch, n):
    monkeypatch.setattr(models, "CACHED", 2 * 8 * 2 * 8 * 8 * 9 // 2)  # two examples
    layer = models.Conv2d(2, 3, 3, stride=(2, 1), padding=1, dilation=2).double()
    x = normal(n, 2, 8, 8, seed=3)
    args = layer.bias, layer.stride, layer.padding, layer.dilation
    close(layer(x), torch.nn.functional.conv2d(x, layer.weight * layer.scale, *args))


def test_convnet_maps_of_mnist():
    module, sizes = models.ConvNet(1, 2), []
    for layer in module.hidden:
        layer.register_forward_hook(lambda _, __, z: sizes.append(tuple(z.shape[-2:])))
    params = models.initialise(module, 0)
    out = functional_call(module, params, (normal(2, 1, 28, 28),))
    assert sizes == [(13, 13), (11, 11), (5, 5), (3, 3)] and out.shape == (2, 1)


def test_convnet_in_the_standard_parametrisation():
    """Its weights are the scaled ones of the other, for a stack too."""
    layers = models.UnscaledConv2d, models.Unscaled
    module, scaled = models.ConvNet(2, 3, side=3, layers=layers), models.ConvNet(2, 3, side=3)
    sizes = []
    for layer in module.hidden:
        layer.register_forward_hook(lambda _, __, z: sizes.append(tuple(z.shape[-2:])))
    params = models.initialise_stack(scaled, [0, 1])
    standard = {
        k: w / math.sqrt(w[0, 0].numel()) if k.endswith("weight") else w for k, w in params.items()
    }
    x = normal(2, 2, 16, 16)
    got = functional_call(module, standard, (x,))
    close(got, functional_call(scaled, params, (x,)))
    assert sizes == [(8, 8), (8, 8), (4, 4), (4, 4)] and got.shape == (2, 2, 1)


@pytest.mark.parametrize("case", STACKS, ids=name)
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_stack_is_its_networks(case, seeds):
    params, x = case.stack(*seeds), case.x(3)
    got = functional_call(case.module, params, (x,))
    for i in range(len(seeds)):
        close(got[i], functional_call(case.module, select(params, i), (x,)))


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_a_stack_of_other_convolutions_is_refused(options):
    layer = models.Conv2d(2, 2, 3, bias=False, **options)
    with pytest.raises(ValueError, match=r"^Conv2d: a stack needs groups=1"):
        functional_call(layer, {"weight": normal(2, *layer.weight.shape)}, (normal(1, 2, 5, 5),))


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_output_variance_at_initialisation_is_one(activation):
    module = models.MLP(10, 100, 2, c=50, activation=activation)
    x = normal(1, 10)
    x *= math.sqrt(10) / x.norm()
    f = functional_call(module, models.initialise_stack(module, list(range(100))), (x,))
    assert f.square().mean() == pytest.approx(1, abs=0.15)  # four standard errors
    assert f.mean() == pytest.approx(0, abs=0.06)


@given(scale=st.floats(0.2, 3), depth=st.integers(1, 4))
def test_relu_without_bias_is_homogeneous(scale, depth):
    module = models.MLP(3, 4, depth, activation="relu", bias=False)
    params, x = models.initialise(module, depth), normal(2, 3)
    scaled = {k: scale * v for k, v in params.items()}
    want = scale ** (depth + 1) * functional_call(module, params, (x,))
    close(functional_call(module, scaled, (x,)), want)


def test_initialisation_is_a_function_of_the_seed():
    module = models.MLP(3, 50, 2)
    torch.manual_seed(1)
    first = models.initialise(module, 5)
    torch.manual_seed(2)
    again, other = models.initialise(module, 5), models.initialise(module, 6)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["readout.weight"], other["readout.weight"])
    assert all(v.abs().max() == 0 for k, v in first.items() if k.endswith("bias"))
    assert first["hidden.1.weight"].std() == pytest.approx(1, abs=0.06)
    single = models.initialise(module, 5, dtype=torch.float32)
    assert all(v.dtype == torch.float32 for v in single.values())
    assert all(torch.equal(single[k], first[k].float()) for k in first)  # the same draws
    without = models.initialise(models.MLP(3, 50, 2, bias=False), 5)
    assert all(torch.equal(without[k], first[k]) for k in without)
    stacked = models.initialise_stack(module, [6, 5])
    assert all(torch.equal(select(stacked, 1)[k], first[k]) for k in first)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: models.MLP(3, 4, 1, activation="gelu"), "^activation 'gelu' is unknown; accepted"),
        (lambda: models.MLP(3, 4, 0), "^depth must be a whole number, at least 1, got 0"),
        (lambda: models.ConvNet(1, 0), "^width must be a whole number, at least 1, got 0"),
    ],
)
def test_bad_networks_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (5, 2, 3, 3), (30, 2, 3, 3)])
def test_orthogonal_weights(shape):
    weight = models.orthogonal(torch.Size(shape), torch.Generator().manual_seed(0)).flatten(1)
    rows, columns = weight.shape
    few = weight if rows <= columns else weight.mT
    close(few @ few.mT, max(rows, columns) * torch.eye(min(rows, columns)).double())
    assert weight.square().mean().item() == pytest.approx(1)


def test_the_standard_parametrisation_is_that_of_torch():
    module = models.MLP(3, 4, 2, activation="tanh", layer=models.Unscaled)
    params, x = models.initialise(module, 0), normal(5, 3)
    w = [v for k, v in params.items() if k.endswith("weight")]
    want = torch.tanh(torch.tanh(x @ w[0].mT) @ w[1].mT) @ w[2].mT
    close(functional_call(module, params, (x,)), want)


def test_orthogonal_weights_have_no_preferred_direction():
    draws = [models.orthogonal(torch.Size((2, 2)), torch.Generator().manual_seed(s)) / 2**0.5
             for s in range(400)]  # fmt: skip
    assert torch.stack(draws).mean(0).abs().max() < 0.15
    determinants = torch.stack(draws).det()
    assert (determinants > 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_a_delta_kernel_acts_on_its_centre():
    draw, generator = models.delta(models.orthogonal), torch.Generator().manual_seed(0)
    weight = draw(torch.Size((4, 4, 3, 3)), generator)
    centre = weight[:, :, 1, 1] / 3
    close(centre @ centre.mT, 4 * torch.eye(4).double())
    weight[:, :, 1, 1] = 0
    assert (weight == 0).all()
    with pytest.raises(ValueError, match="odd sides, got"):
        draw(torch.Size((4, 4, 2, 2)), generator)
    readout = draw(torch.Size((2, 4)), generator)
    close(readout @ readout.mT, 4 * torch.eye(2).double())


def test_orthogonal_networks_carry_the_variance_of_gaussian_ones():
    module, x = models.MLP(10, 64, 3, activation="erf", bias=False), normal(4, 10)
    sizes = [
        functional_call(
            module, models.initialise_stack(module, list(range(200)), draw=draw), (x,)
        ).square().mean().item()
        for draw in (models.normal, models.orthogonal)
    ]  # fmt: skip
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)
